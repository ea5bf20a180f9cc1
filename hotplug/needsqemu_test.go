package hotplug_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// unasked is a store that must not be asked.
type unasked struct{ *testing.T }

func (unasked) String() string { return "a store that is not asked" }

func (u unasked) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	u.Error("the passphrase was looked up")
	return secrets.New([]byte(key)), nil
}

// TestAutoNeverGivesThePassphrase: whatever QEMU says of itself, and whatever an image holds, the policy auto gives QEMU
// no passphrase: the disk is refused. With the policies that are named it is attached.
func TestAutoNeverGivesThePassphrase(t *testing.T) {
	t.Parallel()
	same := func(line []byte) []byte { return line }
	hidden := func(line []byte) []byte {
		line = bytes.ReplaceAll(line, []byte(`"major": 10`), []byte(`"major": 8`)) // the greeting
		return bytes.ReplaceAll(line, []byte(`"name": "header"`), []byte(`"name": "hidden"`))
	}
	serpent := func(header []byte) { copy(header[8:40], "serpent\x00") }
	for _, c := range []struct {
		name    string
		rewrite func([]byte) []byte
		change  func(header []byte)
		says    string
	}{
		{"QEMU hides luks.header and greets as an old one", hidden, nil, "no other header than the volume's own"},
		{"the header names serpent", same, serpent, "serpent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			socket, pid := qemuAt(t)
			r := newRelay(t, socket, c.rewrite)
			options := hotplug.Options{RunDir: t.TempDir(), LockDir: t.TempDir(), Process: func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(pid) }}
			v := must.Get(hotplug.Connect(ctx, dialer(r.address), options))(t)
			t.Cleanup(func() { _ = v.Close() })
			before := state(ctx, t, v)
			disk := luksDisk(t, "sdb")
			if c.change != nil {
				changeHeader(t, disk, c.change)
			}
			_, err := v.Attach(ctx, disk, unasked{t}, hotplug.AttachOptions{})
			var refused *hotplug.PreflightError
			if !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrNeedsQEMU) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if _, err := v.ChooseUnlock(ctx, disk, before, ""); !errors.Is(err, hotplug.ErrNeedsQEMU) {
				t.Errorf("the choice: %v", err)
			}
			if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
				t.Errorf("before %+v\nafter  %+v", before, after)
			}
			sent := r.traffic()
			for _, secret := range []string{key, base64.StdEncoding.EncodeToString([]byte(key)), "object-add"} {
				if strings.Contains(sent, secret) {
					t.Errorf("QEMU got %q", secret)
				}
			}
			if c.change != nil {
				return // no passphrase opens the changed header
			}
			if at, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}); err != nil || at.Unlock != blockgraph.MethodQEMU {
				t.Errorf("by QEMU, as was chosen: %+v, %v", at, err)
			}
		})
	}
}

// changeHeader changes the only LUKS1 header in a disk's image, also inside of qcow2.
func changeHeader(t *testing.T, disk *blockgraph.Disk, change func(header []byte)) {
	t.Helper()
	path := disk.Image.Source.Path
	image := readFile(t, path)
	at := bytes.Index(image, []byte("LUKS\xba\xbe\x00\x01"))
	if at < 0 {
		t.Fatal("no LUKS header")
	}
	change(image[at : at+592])
	f := must.Get(os.OpenFile(path, os.O_WRONLY, 0))(t)
	_, err := f.WriteAt(image[at:at+592], int64(at))
	must.OK(t, err, f.Close())
}

// iterations makes a key slot of a LUKS1 header active, with that many iterations.
func iterations(slot int, n uint32) func([]byte) {
	return func(header []byte) {
		binary.BigEndian.PutUint32(header[208+48*slot:], 0x00AC71F3)
		binary.BigEndian.PutUint32(header[212+48*slot:], n)
	}
}

// TestMaxStall: a header that would stall the guest for too long in QEMU is refused before the passphrase is looked up
// and before anything is changed, whatever it claims: in the first or in a later key slot, in a raw image or in qcow2.
func TestMaxStall(t *testing.T) {
	t.Parallel()
	const forever = 1<<32 - 1
	inQcow2 := func(t *testing.T) *blockgraph.Disk {
		disk, _ := transientDisk(t, "qcow2", true, "")
		disk.Transient = false
		return disk
	}
	raw := func(t *testing.T) *blockgraph.Disk { return luksDisk(t, "sdb") }
	onServer := func(file func(*testing.T) *blockgraph.Disk, format string) func(*testing.T) *blockgraph.Disk {
		return func(t *testing.T) *blockgraph.Disk {
			must.Have(t, "qemu-storage-daemon")
			local := file(t)
			changeHeader(t, local, iterations(0, forever))
			disk := remoteDisk(t, "sdb", serve(t, local.Image.Source.Path), "")
			disk.Image.Format = blockgraph.Format(format)
			return disk
		}
	}
	for _, c := range []struct {
		name   string
		disk   func(*testing.T) *blockgraph.Disk
		unlock hotplug.UnlockPolicy
		limit  time.Duration
		change func([]byte)
	}{
		{"2^32-1 iterations", raw, hotplug.UnlockQEMU, 0, iterations(0, forever)},
		{"2^32-1 iterations in the last slot", raw, hotplug.UnlockQEMU, 0, iterations(7, forever)},
		{"2^32-1 iterations of the digest", raw, hotplug.UnlockQEMU, 0, func(h []byte) { binary.BigEndian.PutUint32(h[164:], forever) }},
		{"inside of qcow2 by the default policy", inQcow2, hotplug.UnlockAuto, 0, iterations(0, forever)},
		{"on a server", onServer(raw, "raw"), hotplug.UnlockQEMU, 0, nil},
		{"inside of qcow2 on a server", onServer(inQcow2, "qcow2"), hotplug.UnlockAuto, 0, nil},
		{"an hour is allowed", raw, hotplug.UnlockQEMU, time.Hour, func(h []byte) {
			for slot := range 8 {
				iterations(slot, forever)(h)
			}
		}},
		{"a nanosecond is allowed", raw, hotplug.UnlockQEMU, time.Nanosecond, func([]byte) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			v, _ := vm(t, hotplug.Options{})
			before := state(ctx, t, v)
			disk := c.disk(t)
			if c.change != nil {
				changeHeader(t, disk, c.change)
			}
			_, err := v.Attach(ctx, disk, unasked{t}, hotplug.AttachOptions{Unlock: c.unlock, MaxStall: c.limit})
			var refused *hotplug.PreflightError
			if !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrStall) {
				t.Errorf("%v", err)
			}
			if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
				t.Errorf("before %+v\nafter  %+v", before, after)
			}
		})
	}
	t.Run("no limit", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		v, _ := vm(t, hotplug.Options{})
		must.Get(v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU, MaxStall: hotplug.NoMaxStall}))(t)
	})
	t.Run("not in QEMU", func(t *testing.T) { // luksplug derives the key: the guest does not stall
		t.Parallel()
		ctx := bounded(t)
		v, _ := vm(t, hotplug.Options{})
		must.Get(v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{MaxStall: time.Nanosecond}))(t)
	})
}

// TestEarlyPayload: a volume from the days of LUKS 1.0, whose payload begins too early for
// the header that QEMU takes, is refused before the VM is touched, however it is unlocked.
func TestEarlyPayload(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	steps := 0
	v, _ := vm(t, hotplug.Options{OnStep: func(hotplug.StepReport) { steps++ }})
	disk := luksDisk(t, "sdb")
	changeHeader(t, disk, func(header []byte) {
		const material = 500 // sectors for a key of 64 bytes
		for slot := range 8 {
			binary.BigEndian.PutUint32(header[208+48*slot+40:], uint32(2+slot*material))
		}
		binary.BigEndian.PutUint32(header[104:], 2+8*material)
	})
	for unlock, says := range map[hotplug.UnlockPolicy]string{
		hotplug.UnlockAuto: "begins at sector 4002, too early", hotplug.UnlockQEMU: "takes none before sector 8", hotplug.UnlockExternal: "takes none before sector 8",
	} {
		_, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Unlock: unlock})
		var unsupported *blockgraph.UnsupportedError
		if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), says) || steps != 0 {
			t.Errorf("%s: after %d steps: %v", unlock, steps, err)
		}
	}
}
