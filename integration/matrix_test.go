package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestMatrix tests the main task: every kind of volume in every place is attached, written by the guest,
// detached, and read on the host by QEMU's own tools with the original header and passphrase.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for i, where := range places() {
		t.Run(where.name, func(t *testing.T) {
			inEveryRun(t, i)
			t.Parallel()
			testPlace(t, where, "auto", peer.VolumeKinds()...)
		})
	}
}

// inEveryRun skips the place with that number unless slow tests run or it is one of two that differ most: virtio on q35, and
// SCSI with a controller of its own. The other tests use all places.
func inEveryRun(t *testing.T, place int) {
	t.Helper()
	if place%3 != 0 {
		peer.Long(t, "the same in another place of the machine; every run has two places")
	}
}

// TestMatrixOfOtherWays is TestMatrix with volumes unlocked by QEMU or a storage daemon.
func TestMatrixOfOtherWays(t *testing.T) {
	t.Parallel()
	t.Run("by QEMU", func(t *testing.T) {
		t.Parallel()
		testPlace(t, places()[1], "qemu", peer.VolumeKinds()...)
	})
	t.Run("by a storage daemon", func(t *testing.T) {
		t.Parallel()
		testPlace(t, places()[2], "external", peer.Qcow2LUKS, peer.DetachedQcow2)
	})
}

// TestMatrixUSB needs the guest's large kernel, which takes long to boot.
func TestMatrixUSB(t *testing.T) {
	peer.Long(t, "boots a guest with USB")
	t.Parallel()
	testPlace(t, place{"usb on q35", "usb", [2]string{"sdb", "sdc"}, peer.Options{RootPorts: 1, USB: true, Guest: true}}, "auto", peer.VolumeKinds()...)
}

// testPlace boots one VM and attaches volumes of those kinds, each alone and the first two at once.
func testPlace(t *testing.T, where place, unlock string, kinds ...peer.VolumeKind) {
	q := booted(bounded(t), t, where.vm)
	var all []*peer.Volume
	for _, kind := range kinds {
		all = append(all, peer.NewVolume(t, kind))
	}
	for _, v := range all {
		t.Run(string(v.Kind), func(t *testing.T) { roundTrip(bounded(t), t, q, where, unlock, v) })
	}
	for i, order := range []string{"the first goes first", "the second goes first"} {
		t.Run("two disks/"+order, func(t *testing.T) {
			if i > 0 && where.name != places()[0].name {
				peer.Long(t, "detaches two disks in the other order; every run does in one place")
			}
			twoDisks(bounded(t), t, q, where, unlock, [2]*peer.Volume{all[0], all[1]}, i)
		})
	}
}

// roundTrip attaches and detaches one volume twice, the second time read-only.
func roundTrip(ctx context.Context, t *testing.T, q *peer.QEMU, where place, unlock string, v *peer.Volume) {
	p := newPlug(t, q, v, where.targets[0], where.bus, "")
	p.unlock = unlock
	before := stateOf(ctx, t, q)
	first := p.attach(ctx, t)
	if want := wayOf(unlock, v.Kind); first.Unlock != want {
		t.Errorf("unlocked by %q, want %q", first.Unlock, want)
	}
	dev := p.inGuest(ctx, t)
	pattern := []byte("only the guest and who has the key may read this, " + string(v.Kind) + ". ")
	mibs := []int{0, peer.VolumeSize/peer.MiB - 1} // both ends, to detect wrong offsets
	p.write(ctx, t, dev, mibs, pattern)
	const filled, fill = 33, 0xa7 // a repeated byte, which qemu-io can check
	p.write(ctx, t, dev, []int{filled}, []byte{fill})
	p.detach(ctx, t)
	must.OK(t, q.Guest().WaitGone(ctx, dev))
	wantSame(ctx, t, q, before)

	tool(ctx, t, q.Socket, "detach", p.target).want(t, 5)
	tool(ctx, t, q.Socket, "detach", p.target, "--ignore-missing").want(t, 0)
	p.readOnHost(ctx, t, mibs, pattern)
	if err := v.QemuIO(ctx, fmt.Sprintf("read -P %#x %dM 1M", fill, filled)); err != nil {
		t.Error(err)
	}
	if err := v.QemuIO(ctx, fmt.Sprintf("read -P %#x %dM 1M", fill+1, filled)); err == nil {
		t.Error("qemu-io accepts a wrong pattern")
	}

	again := newPlug(t, q, v, where.targets[0], where.bus, "<readonly/>")
	again.unlock = unlock
	second := again.attach(ctx, t)
	if second.Bus != first.Bus || second.Address != first.Address {
		t.Errorf("plugged into %s %s at first, and then into %s %s", first.Bus, first.Address, second.Bus, second.Address)
	}
	again.wantReadOnly(ctx, t, mibs[1:], pattern)
	again.detach(ctx, t)
	wantSame(ctx, t, q, before)
	p.readOnHost(ctx, t, mibs, pattern)
}

// wayOf returns the method that luksplug reports for such a volume.
func wayOf(unlock string, kind peer.VolumeKind) string {
	switch {
	case unlock != "auto":
		return unlock
	case kind == peer.Qcow2LUKS: // auto has no other method for it
		return "qemu"
	}
	return "ephemeral"
}

// twoDisks attaches two volumes, and detaches the one with index first and then the other. A controller added
// with the first disk stays while either disk needs it.
func twoDisks(ctx context.Context, t *testing.T, q *peer.QEMU, where place, unlock string, v [2]*peer.Volume, first int) {
	before := stateOf(ctx, t, q)
	var plugs [2]*plug
	var devs [2]string
	var patterns [2][]byte
	mibs := []int{3}
	for i := range v {
		plugs[i] = newPlug(t, q, v[i], where.targets[i], where.bus, "")
		plugs[i].unlock = unlock
		plugs[i].attach(ctx, t)
		devs[i] = plugs[i].inGuest(ctx, t)
		patterns[i] = fmt.Appendf(nil, "disk %d of two, when number %d is to go first. ", i, first)
		plugs[i].write(ctx, t, devs[i], mibs, patterns[i])
	}
	plugs[first].detach(ctx, t)
	second := 1 - first
	held := listed(ctx, t, q)
	if len(held) != 1 || held[plugs[second].target].State != "attached" {
		t.Fatalf("after %s was unplugged the VM holds %+v", plugs[first].target, held)
	}
	// The remaining disk still works.
	for _, m := range mibs {
		wantHash(ctx, t, q, devs[second], m, patterns[second])
	}
	plugs[second].detach(ctx, t)
	wantSame(ctx, t, q, before)
	for i, p := range plugs {
		p.readOnHost(ctx, t, mibs, patterns[i])
	}
}

// inGuest waits for the disk in the guest and checks its size.
func (p *plug) inGuest(ctx context.Context, t *testing.T) string {
	t.Helper()
	dev := guestDisk(ctx, t, p.q, p.serial)
	if size, err := p.q.Guest().SizeOf(ctx, dev); err != nil || size != p.Size {
		t.Fatalf("the guest sees %d bytes of %s, error %v; want %d", size, dev, err, p.Size)
	}
	return dev
}

// write has the guest fill each of the MiBs with the pattern and read it back.
func (p *plug) write(ctx context.Context, t *testing.T, dev string, mibs []int, pattern []byte) {
	t.Helper()
	for _, m := range mibs {
		must.OK(t, p.q.Guest().WritePattern(ctx, dev, m, 1, pattern))
		wantHash(ctx, t, p.q, dev, m, pattern)
	}
}

// wantHash ends the test unless the guest reads the pattern in a MiB.
func wantHash(ctx context.Context, t *testing.T, vm machine, dev string, mib int, pattern []byte) {
	t.Helper()
	hash, err := vm.Guest().ReadHash(ctx, dev, mib, 1)
	if err != nil || hash != peer.HashOf(peer.Pattern(pattern)) {
		t.Fatalf("the guest does not read the pattern in MiB %d of %s; error %v", mib, dev, err)
	}
}

// wantReadOnly has the guest read the data and try to write.
func (p *plug) wantReadOnly(ctx context.Context, t *testing.T, mibs []int, pattern []byte) {
	t.Helper()
	dev := p.inGuest(ctx, t)
	for _, m := range mibs {
		wantHash(ctx, t, p.q, dev, m, pattern)
	}
	var refused *peer.ExitError
	if _, err := p.q.Guest().Run(ctx, "dd if=/dev/zero of="+dev+" bs=4096 count=1 conv=fsync"); !errors.As(err, &refused) {
		t.Errorf("writing to a read-only disk gave the guest %v", err)
	}
	if d := listed(ctx, t, p.q)[p.target]; !d.ReadOnly {
		t.Errorf("listed as %+v, which is not read-only", d)
	}
}

// readOnHost reads the MiBs with another program, through header and passphrase, and looks for plaintext in
// the payload.
func (p *plug) readOnHost(ctx context.Context, t *testing.T, mibs []int, pattern []byte) {
	t.Helper()
	for _, m := range mibs {
		plain, err := p.ReadThrough(ctx, int64(m)*peer.MiB, peer.MiB)
		if err != nil || !bytes.Equal(plain, peer.Pattern(pattern)) {
			t.Fatalf("the host does not read in MiB %d what the guest wrote; error %v", m, err)
		}
	}
	cipher := must.Get(os.ReadFile(p.Payload))(t)
	// A part of the pattern: qcow2 clusters could split a whole one.
	if bytes.Contains(cipher, pattern[:16]) {
		t.Errorf("%s holds plaintext", p.Payload)
	}
}
