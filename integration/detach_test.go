package integration

import (
	"bytes"
	"context"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// serialXML gives a disk a serial number, by which the guest finds it.
func serialXML(t *testing.T, xml, serial string) string {
	t.Helper()
	return edited(t, xml, "</disk>", "<serial>"+serial+"</serial></disk>")
}

// attachInGuest attaches a volume as target and waits until the guest has it.
func attachInGuest(ctx context.Context, t *testing.T, q *peer.QEMU, v *peer.Volume, target, bus string) string {
	t.Helper()
	serial := "in-guest-" + target
	tool(ctx, t, q.Socket, attachArgs(t, v, serialXML(t, v.DiskXML(target, bus), serial))...).want(t, 0)
	return guestDisk(ctx, t, q, serial)
}

// query runs a command on the control monitor.
func query(ctx context.Context, t *testing.T, q *peer.QEMU, command string) {
	t.Helper()
	must.Get(q.Query(ctx, command, nil))(t)
}

// paused runs do while the VM is stopped. The VM continues even if do ends the test, for later tests.
func paused(ctx context.Context, t *testing.T, q *peer.QEMU, do func()) {
	t.Helper()
	query(ctx, t, q, "stop")
	defer query(ctx, t, q, "cont")
	do()
}

// TestDetachFromAGuest covers how a guest releases a disk, with all cases in one VM.
func TestDetachFromAGuest(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2, SCSI: true})
	before := stateOf(ctx, t, q)

	t.Run("a paused VM", func(t *testing.T) {
		dev := attachInGuest(ctx, t, q, peer.NewVolume(t, peer.DetachedRaw), "vdb", "virtio")
		paused(ctx, t, q, func() {
			attached := stateOf(ctx, t, q)
			got := tool(ctx, t, q.Socket, "--timeout", "1s", "detach", "vdb").want(t, 8)
			wantOneLine(t, got, "vdb", "not released", "paused", "run detach again")
			wantSame(ctx, t, q, attached)
		})
		tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
		wantSame(ctx, t, q, before)
		must.OK(t, q.Guest().WaitGone(ctx, dev))
	})
	t.Run("a paused VM, SCSI", func(t *testing.T) {
		dev := attachInGuest(ctx, t, q, peer.NewVolume(t, peer.DetachedRaw), "sda", "scsi")
		paused(ctx, t, q, func() {
			// QEMU's SCSI bus notifies the guest and does not wait for it.
			tool(ctx, t, q.Socket, "--timeout", "10s", "detach", "sda").want(t, 0)
			wantSame(ctx, t, q, before)
		})
		must.OK(t, q.Guest().WaitGone(ctx, dev))
	})
	t.Run("resumed during the wait", func(t *testing.T) {
		attachInGuest(ctx, t, q, peer.NewVolume(t, peer.DetachedRaw), "vdb", "virtio")
		query(ctx, t, q, "stop")
		// Resume only after QEMU has got the request.
		proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
			if c.Name == "device_del" {
				go func() { _, _ = q.Query(ctx, "cont", nil) }() // the detach then ends
			}
			return peer.Verdict{}
		}})
		tool(ctx, t, proxy.Address, "detach", "vdb").want(t, 0)
		wantSame(ctx, t, q, before)
	})
	t.Run("while the guest writes", func(t *testing.T) {
		v := peer.NewVolume(t, peer.DetachedQcow2)
		dev := attachInGuest(ctx, t, q, v, "vdb", "virtio")
		pattern := []byte("written and flushed before the detach. ")
		must.OK(t, q.Guest().WritePattern(ctx, dev, 1, 4, pattern))
		// Writes until the disk is gone; /tmp/wrote shows that it has begun. It checks for the device first,
		// because dd would create a file.
		must.Get(q.Guest().Run(ctx, "( while [ -b "+dev+" ] && dd if=/dev/urandom of="+dev+" bs=64k seek=256 count=64 conv=notrunc,fsync 2>/dev/null; do touch /tmp/wrote; done; touch /tmp/failed ) >/dev/null 2>&1 &"+
			" while [ ! -e /tmp/wrote ]; do usleep 10000; done"))(t)
		tool(ctx, t, q.Socket, "--timeout", "1m", "detach", "vdb").want(t, 0)
		wantSame(ctx, t, q, before)
		if _, err := q.Guest().Run(ctx, "while [ ! -e /tmp/failed ]; do usleep 10000; done; [ ! -b "+dev+" ]"); err != nil {
			t.Error(err)
		}
		if !q.Alive() {
			t.Error("QEMU has ended")
		}
		command(ctx, t, "qemu-img", "check", "-q", v.Payload)
		plain, err := v.ReadThrough(ctx, peer.MiB, 4*peer.MiB)
		if err != nil || !bytes.Equal(plain, bytes.Repeat(peer.Pattern(pattern), 4)) {
			t.Errorf("the data flushed before the detach are not in the image, error %v", err)
		}
	})
	t.Run("mounted", func(t *testing.T) {
		v := peer.NewVolume(t, peer.EmbeddedLUKS)
		dev := attachInGuest(ctx, t, q, v, "vdb", "virtio")
		must.Get(q.Guest().Run(ctx, "exec 9<> "+dev+"; ( sleep 1000 ) <&9 >/dev/null 2>&1 & echo $! > /tmp/opener"))(t)
		// The guest's kernel releases a disk although it is open.
		tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
		wantSame(ctx, t, q, before)
		if _, err := q.Guest().Run(ctx, "kill $(cat /tmp/opener)"); err != nil {
			t.Error(err)
		}
	})
	t.Run("attached by a user's alias", func(t *testing.T) {
		v := peer.NewVolume(t, peer.DetachedRaw)
		xml := serialXML(t, edited(t, v.DiskXML("vdb", "virtio"), "<target", "<alias name='ua-data'/><target"), "aliased")
		args := attachArgs(t, v, xml)
		tool(ctx, t, q.Socket, args...).want(t, 0)
		guestDisk(ctx, t, q, "aliased")
		if disks := listed(ctx, t, q); len(disks) != 1 || disks["vdb"].State != "attached" || disks["vdb"].Device != "ua-data" {
			t.Errorf("list %+v", disks)
		}
		tool(ctx, t, q.Socket, args...).want(t, 0).wantStdout(t, "already attached")
		tool(ctx, t, q.Socket, "detach", "ua-data").want(t, 2) // detach takes a target, not an alias
		tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
		wantSame(ctx, t, q, before)
	})
}

// TestDetachBeforeTheGuestHasBooted: no guest can receive the request, which must be repeated later. QEMU must
// not get it: it would refuse another request until a reset.
func TestDetachBeforeTheGuestHasBooted(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, Guest: true, RootPorts: 2})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...).want(t, 0)
	got := tool(ctx, t, q.Socket, "--timeout", "500ms", "detach", "vdb").want(t, 8)
	wantOneLine(t, got, "vdb", "not released", "prelaunch")
	waiting := start(ctx, t, q.Socket, "--timeout", "2m", "detach", "vdb")
	query(ctx, t, q, "cont")
	waiting.end(ctx, t).want(t, 0)
	must.OK(t, q.Guest().WaitBoot(ctx)) // the guest still boots
	wantSame(ctx, t, q, before)
}

// TestDetachByPCIExpress: with native hot plug of PCI Express the guest waits five seconds first.
func TestDetachByPCIExpress(t *testing.T) {
	peer.Long(t, "waits for a guest's slow answers; TestDetachFromAGuest detaches in every run")
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{NativeHotplug: true, RootPorts: 2})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	dev := attachInGuest(ctx, t, q, v, "vdb", "virtio")
	tool(ctx, t, q.Socket, "--timeout", "1s", "detach", "vdb").want(t, 8)
	tool(ctx, t, q.Socket, "--timeout", "1m", "detach", "vdb").want(t, 0)
	wantSame(ctx, t, q, before)
	must.OK(t, q.Guest().WaitGone(ctx, dev))
	// Repeated requests during the release have not confused the guest.
	attachInGuest(ctx, t, q, v, "vdb", "virtio")
	tool(ctx, t, q.Socket, "--timeout", "1m", "detach", "vdb").want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestDetachFromADeafGuest: firmware without an operating system never answers; a reset ends the wait.
func TestDetachFromADeafGuest(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...).want(t, 0)
	attached := stateOf(ctx, t, q)
	got := tool(ctx, t, q.Socket, "--timeout", "4s", "detach", "vdb").want(t, 8)
	wantOneLine(t, got, "vdb", "not released", "run detach again")
	wantSame(ctx, t, q, attached)
	if disks := listed(ctx, t, q); len(disks) != 1 || disks["vdb"].State != "attached" {
		t.Errorf("list while the guest has not answered: %+v", disks)
	}
	waiting := start(ctx, t, q.Socket, "--timeout", "1m", "detach", "vdb")
	must.OK(t, q.Reset(ctx))
	waiting.end(ctx, t).want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestDetachArgument: detach takes a target, the disk's XML or its source. Anything else is an error, also with
// --ignore-missing, and nothing is detached.
func TestDetachArgument(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	xml := v.DiskXML("sda", "scsi")
	document := writeFile(t, "sda.xml", xml)
	attach := attachArgs(t, v, xml)
	tool(ctx, t, q.Socket, attach...).want(t, 0)
	attached := stateOf(ctx, t, q)
	guests := writeFile(t, "guest.img", xml) // XML that a guest has written into its disk
	for _, argument := range []string{"/dev/sda", "/dev/vdb", "", "sda1", "SDA", "disk", "luksplug-sda", "/etc/hostname", guests, v.Header, document + ".missing.xml"} {
		for _, args := range [][]string{{"detach", argument}, {"detach", "--ignore-missing", argument}} {
			got := tool(ctx, t, q.Socket, args...).want(t, 2)
			wantOneLine(t, got, argument)
		}
	}
	wantSame(ctx, t, q, attached)
	for _, argument := range []string{"sda", document, v.Payload, "/." + v.Payload} {
		tool(ctx, t, q.Socket, "detach", argument).want(t, 0).wantStdout(t, "sda detached")
		wantSame(ctx, t, q, before)
		tool(ctx, t, q.Socket, attach...).want(t, 0)
	}
	piped := program(ctx, q.Socket, "detach", "-")
	piped.Stdin = bytes.NewBufferString(xml)
	run(ctx, t, piped).want(t, 0)
	tool(ctx, t, q.Socket, "detach", document).want(t, 5)
	tool(ctx, t, q.Socket, "detach", "--ignore-missing", document).want(t, 0).wantStdout(t, "sda was not attached")
	tool(ctx, t, q.Socket, "detach", v.Payload).want(t, 2)
}
