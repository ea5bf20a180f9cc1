package reencrypt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/luks"
)

const mib = 1 << 20

// bench is a VM with a disk, and a key store.
type bench struct {
	reencrypt.Setting
	socket, images string
	run, locks     string
	keys           *dir.Store
	kill           func()
}

// newBench starts a VM, which never runs guest code.
func newBench(t *testing.T) *bench {
	t.Helper()
	must.Have(t, "qemu-system-x86_64", "qemu-io")
	b := &bench{socket: filepath.Join(must.Dir(t, ""), "qmp"), images: t.TempDir(), run: t.TempDir(), locks: t.TempDir()}
	b.start(t)
	keys := t.TempDir()
	must.OK(t, os.Chmod(keys, 0o700))
	b.keys = dir.New(keys)
	b.Setting = reencrypt.Setting{
		Journal: reencrypt.Journal{Dir: filepath.Join(t.TempDir(), "journal")},
		Engine:  reencrypt.InVM{Target: "sdb", With: b.with}, Store: b.keys,
		Keys: func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
			return b.keys, b.keys.Define(ctx, d)
		},
		Forget: func(ctx context.Context, ref secrets.Reference, _ string) error {
			if err := b.keys.Remove(ctx, ref); !errors.Is(err, secrets.ErrNotFound) {
				return err
			}
			return nil
		},
		Attached: func() ([]hotplug.Use, error) { return hotplug.Uses(b.run) },
	}
	return b
}

func (b *bench) start(t *testing.T) {
	t.Helper()
	_ = os.Remove(b.socket)
	cmd := exec.Command("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "64", "-display", "none", "-nodefaults", "-S",
		"-device", "pcie-root-port,id=rp1,chassis=1", "-device", "virtio-scsi-pci,id=scsi0,bus=rp1", "-qmp", "unix:"+b.socket+",server=on,wait=off")
	must.OK(t, cmd.Start())
	b.kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(b.kill)
	for range 1000 {
		if _, err := os.Stat(b.socket); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("QEMU does not start")
}

func (b *bench) with(ctx context.Context, f func(context.Context, *hotplug.VM) error) error {
	vm, err := hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, b.socket) }, hotplug.Options{RunDir: b.run, LockDir: b.locks})
	if err != nil {
		return err
	}
	defer func() { _ = vm.Close() }()
	return f(ctx, vm)
}

// attach makes a volume, writes to it and attaches it.
func (b *bench) attach(t *testing.T, r volume.Request) (disk []byte) {
	t.Helper()
	r.Path = filepath.Join(b.images, "disk.img")
	v := must.Get(volume.Create(t.Context(), r, b.Keys))(t)
	disk = v.DiskXML("sdb", "serial")
	b.attachDisk(t, disk)
	b.write(t, "write -P 0x5a 0 1M")
	b.write(t, "write -P 0x77 7M 64k")
	return disk
}

func (b *bench) attachDisk(t *testing.T, xml []byte) {
	t.Helper()
	parsed := must.Get(diskxml.ParseDisk(xml))(t)
	must.OK(t, b.with(t.Context(), func(ctx context.Context, vm *hotplug.VM) error {
		_, err := vm.Attach(ctx, parsed, b.keys, hotplug.AttachOptions{})
		return err
	}))
}

// write has QEMU write to or read from the disk, as its device would.
func (b *bench) write(t *testing.T, command string) {
	t.Helper()
	must.OK(t, b.with(t.Context(), func(ctx context.Context, vm *hotplug.VM) error {
		out, err := vm.Client().Execute(ctx, qmp.Command{Execute: "human-monitor-command", Arguments: qmp.Object{{Name: "command-line", Value: "qemu-io -d luksplug-sdb \"" + command + "\""}}})
		if err == nil && (bytes.Contains(out, []byte("failed")) || bytes.Contains(out, []byte("rror"))) {
			err = fmt.Errorf("%s: %s", command, out)
		}
		return err
	}))
}

func (b *bench) request(disk []byte) reencrypt.Request {
	uses, _ := b.Attached()
	return reencrypt.Request{Disk: disk, Size: 8 * mib, VM: reencrypt.VM{Name: "vm"}, Attached: uses}
}

// content returns what a guest reads from a volume that nothing has open.
func (b *bench) content(t *testing.T, v reencrypt.Volume) string {
	t.Helper()
	value := must.Get(b.keys.Lookup(t.Context(), v.Secret))(t)
	defer value.Wipe()
	key := filepath.Join(t.TempDir(), "key")
	must.OK(t, value.Use(func(b []byte) error { return os.WriteFile(key, b, 0o600) }))
	image := "driver=luks,key-secret=s,file.driver=" + string(v.Format) + ",file.file.filename=" + v.Payload
	switch {
	case v.Header != "":
		image += ",header.driver=file,header.filename=" + v.Header
	case v.Format == blockgraph.FormatQcow2:
		image = "driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=" + v.Payload
	default:
		image = "driver=luks,key-secret=s,file.filename=" + v.Payload
	}
	out := filepath.Join(t.TempDir(), "plain")
	must.Run(t, "", "qemu-img", "convert", "--object", "secret,id=s,file="+key, "--image-opts", image, "-O", "raw", out)
	return string(must.Get(os.ReadFile(out))(t))
}

// TestReencrypt: a disk gets a new data key while the VM has it, keeps its content, and the old key opens nothing of the new volume.
func TestReencrypt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := newBench(t)
	disk := b.attach(t, volume.Request{Size: 8 * mib})
	p := must.Get(reencrypt.Prepare(ctx, b.request(disk)))(t)
	if p.Entry.Target.Payload != filepath.Join(b.images, "disk-r2.img") || p.SameSecret || p.Cost.Copied != 8*mib {
		t.Errorf("prepared %+v", p)
	}
	e := must.Get(b.Start(ctx, p))(t)
	if _, err := volume.Inspect(ctx, e.Target.Payload, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := luks.ReadHeader(opened(t, e.Target.Payload)); !errors.Is(err, luks.ErrIncomplete) {
		t.Errorf("the new volume meanwhile: %v", err)
	}
	must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
	b.write(t, "write -P 0x11 3M 4k")
	done, switched, err := b.Finish(ctx, e)
	must.OK(t, err)
	if switched.Payload != e.Target.Payload || done.Source.Payload != filepath.Join(b.images, "disk.img.old") || done.Phase != reencrypt.PhaseSourceKept {
		t.Errorf("switched to %+v, %+v", switched, done)
	}
	b.write(t, "write -P 0x22 3M 4k") // only the new volume gets it
	b.write(t, "read -P 0x5a 0 1M")
	b.write(t, "read -P 0x77 7M 64k")
	if entries := must.Get(b.Journal.List())(t); len(entries) != 1 || entries[0].Source.Payload != done.Source.Payload {
		t.Errorf("the journal has %+v", entries)
	}
	b.kill()
	plain := b.content(t, done.Target)
	if !strings.HasPrefix(plain, strings.Repeat("\x5a", mib)) || plain[3*mib] != 0x22 || plain[7*mib] != 0x77 {
		t.Error("the new volume lacks data")
	}
	if old := b.content(t, done.Source); old[3*mib] != 0x11 {
		t.Error("the old volume is not as it was at the switch")
	}
	wantOtherCiphertext(t, done.Source.Payload, done.Target.Payload)
	value := must.Get(b.keys.Lookup(ctx, done.Source.Secret))(t)
	if _, err := volume.TrySlot(ctx, done.Target.Payload, "", value); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Errorf("the old passphrase on the new volume: %v", err)
	}
	must.OK(t, b.DiscardOld(ctx, done))
	if _, err := os.Stat(done.Source.Payload); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old volume: %v", err)
	}
	if _, err := b.keys.Lookup(ctx, done.Source.Secret); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("the old secret: %v", err)
	}
	if entries := must.Get(b.Journal.List())(t); len(entries) != 0 {
		t.Errorf("the journal has %+v", entries)
	}
	b.start(t)
	b.attachDisk(t, []byte(done.Target.XML))
	b.write(t, "read -P 0x22 3M 4k")
}

func opened(t *testing.T, path string) io.ReaderAt {
	t.Helper()
	f := must.Get(os.Open(path))(t)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// wantOtherCiphertext checks that two images have no block of a cipher in common at the same offset, besides zeros.
func wantOtherCiphertext(t *testing.T, first, second string) {
	t.Helper()
	const block = 16
	a, b := must.Get(os.ReadFile(first))(t), must.Get(os.ReadFile(second))(t)
	for at := 2 * mib; at+block <= min(len(a), len(b)); at += block {
		if x := a[at : at+block]; bytes.Equal(x, b[at:at+block]) && !bytes.Equal(x, make([]byte, block)) {
			t.Fatalf("the same ciphertext at %d", at)
		}
	}
}
