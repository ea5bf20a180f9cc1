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
	b := &bench{socket: filepath.Join(must.Dir(t, ""), "qmp"), images: t.TempDir(), run: must.Dir(t, ""), locks: t.TempDir()}
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
	b.attachFilled(t, disk)
	return disk
}

// attachFilled attaches a disk and writes to it.
func (b *bench) attachFilled(t *testing.T, disk []byte) {
	t.Helper()
	b.attachDisk(t, disk)
	b.write(t, "write -P 0x5a 0 1M")
	b.write(t, "write -P 0x77 7M 64k")
}

// attachLayout is attach for a layout.
func (b *bench) attachLayout(t *testing.T, l reencrypt.Layout) (disk []byte) {
	t.Helper()
	r := volume.Request{Size: 8 * mib}
	format := blockgraph.FormatRaw
	switch l {
	case reencrypt.LayoutDetachedRaw:
		r.Header = filepath.Join(b.images, "disk.hdr")
	case reencrypt.LayoutLUKSInQcow2:
		r.Format = blockgraph.FormatQcow2
	case reencrypt.LayoutQcow2, reencrypt.LayoutRaw:
		if l == reencrypt.LayoutQcow2 {
			format = blockgraph.FormatQcow2
		}
		path := filepath.Join(b.images, "disk.img")
		must.Run(t, "", "qemu-img", "create", "-q", "-f", string(format), path, "8M")
		disk = []byte("<disk type='file' device='disk'><driver name='qemu' type='" + string(format) + "'/><source file='" + path + "'/><target dev='sdb' bus='scsi'/><serial>serial</serial></disk>")
		b.attachFilled(t, disk)
		return disk
	}
	return b.attach(t, r)
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
	if v.UUID == "" {
		out := filepath.Join(t.TempDir(), "plain")
		must.Run(t, "", "qemu-img", "convert", "-f", string(v.Format), v.Payload, "-O", "raw", out)
		return string(must.Get(os.ReadFile(out))(t))
	}
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

// plainPairs are the layouts of re-encryptions with a volume without encryption; the quick ones are always tested.
var plainPairs = []struct {
	from, to reencrypt.Layout
	quick    bool
}{
	{reencrypt.LayoutLUKS, reencrypt.LayoutRaw, true},
	{reencrypt.LayoutLUKS, reencrypt.LayoutQcow2, false},
	{reencrypt.LayoutDetachedRaw, reencrypt.LayoutRaw, false},
	{reencrypt.LayoutLUKSInQcow2, reencrypt.LayoutQcow2, false},
	{reencrypt.LayoutRaw, reencrypt.LayoutLUKS, true},
	{reencrypt.LayoutQcow2, reencrypt.LayoutLUKS, false},
	{reencrypt.LayoutQcow2, reencrypt.LayoutLUKSInQcow2, false},
}

func long() bool { return os.Getenv("LUKSPLUG_LONG") != "" }

// TestReencryptPlain: a disk gets encryption, or loses it, while the VM has it. A volume without encryption is refused while it lacks
// data, whatever asks for it.
func TestReencryptPlain(t *testing.T) {
	t.Parallel()
	for _, c := range plainPairs {
		t.Run(fmt.Sprintf("%s to %s", c.from, c.to), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			b := newBench(t)
			r := b.request(b.attachLayout(t, c.from))
			r.Layout = c.to
			p := must.Get(reencrypt.Prepare(ctx, r))(t)
			if got := p.Entry.Target.Layout(); got != c.to || len(p.Warnings) != 1 {
				t.Errorf("prepared a %s, with the warnings %q", got, p.Warnings)
			}
			e := must.Get(b.Start(ctx, p))(t)
			wantIncomplete(t, e.Target)
			if made, marked, err := volume.PlainMarks(e.Target.Payload); e.Target.UUID == "" && (made != e.ID || marked != e.ID) {
				t.Errorf("the new file has the attributes %q and %q: %v", made, marked, err)
			}
			b.wantRefused(t, e.Target)
			must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
			b.write(t, "write -P 0x11 3M 4k")
			done, _, err := b.Finish(ctx, e)
			must.OK(t, err)
			b.write(t, "write -P 0x22 3M 4k")
			b.kill()
			plain, old := b.content(t, done.Target), b.content(t, done.Source)
			if !strings.HasPrefix(plain, strings.Repeat("\x5a", mib)) || plain[3*mib] != 0x22 || plain[7*mib] != 0x77 || len(plain) != 8*mib {
				t.Error("the new volume lacks data")
			}
			if old[3*mib] != 0x11 {
				t.Error("the old volume is not as it was at the switch")
			}
			if stored := must.Get(os.ReadFile(done.Target.Payload))(t); bytes.Contains(stored, bytes.Repeat([]byte{0x5a}, 4096)) != (done.Target.UUID == "") {
				t.Error("what is stored is encrypted, or not, against the layout")
			}
			if made, marked, err := volume.PlainMarks(done.Target.Payload); made != "" || marked != "" || err != nil {
				t.Errorf("the new file has the attributes %q and %q: %v", made, marked, err)
			}
			b.start(t)
			b.attachDisk(t, []byte(done.Target.XML))
			b.write(t, "read -P 0x22 3M 4k")
			must.OK(t, b.DiscardOld(ctx, done))
			b.wantGone(t, done.Source)
		})
	}
}

// TestReencryptInPlace: the new volume has the name of the old one in the end, while the VM has it open by another name, and everything
// finds it by that: a second attach, a list, a resize, another re-encryption, and QEMU after a migration that has failed.
func TestReencryptInPlace(t *testing.T) {
	t.Parallel()
	for _, layout := range []reencrypt.Layout{reencrypt.LayoutLUKS, reencrypt.LayoutDetachedRaw} {
		if layout != reencrypt.LayoutLUKS && !long() {
			continue // TestResumeInPlace has it
		}
		t.Run(string(layout), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			b := newBench(t)
			xml := b.attachLayout(t, layout)
			secret := must.Get(diskxml.ParseDisk(xml))(t).Image.Encryption.Secrets[0]
			path, size := filepath.Join(b.images, "disk.img"), int64(8*mib)
			for _, byte := range []string{"0x22", "0x44"} { // the second time the disk goes back to its first instance
				r := b.request(xml)
				r.Size, r.InPlace, r.Secret = size, true, secrets.Document{UUID: secret.UUID, UsageType: secrets.UsageVolume, Usage: path}
				r.Passphrase = must.Get(b.keys.Lookup(ctx, secret))(t)
				p := must.Get(reencrypt.Prepare(ctx, r))(t)
				if !p.SameSecret || len(p.Warnings) != 0 || p.Cost.Freed == 0 {
					t.Errorf("prepared %+v", p)
				}
				e := must.Get(b.Start(ctx, p))(t)
				must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
				done, _, err := b.Finish(ctx, e)
				must.OK(t, err)
				if done.Target.Payload != path || done.Source.Payload != path+".old" || done.Target.Header != e.Source.Header {
					t.Errorf("finished as %+v", done)
				}
				b.wantGone(t, reencrypt.Volume{Payload: e.Target.Payload})
				b.wantAttached(t, string(xml), path)
				b.wantMigrationKeepsFile(t, e.Target.Payload, "write -f -P "+byte+" 3M 4k")
				old := must.Get(os.Open(done.Source.Payload))(t)
				must.OK(t, b.DiscardOld(ctx, done))
				if _, err := luks.ReadHeader(old); layout == reencrypt.LayoutLUKS && !errors.Is(err, luks.ErrNotLUKS) {
					t.Errorf("the header of the old file: %v", err)
				}
				_ = old.Close()
				if _, err := b.keys.Lookup(ctx, secret); err != nil {
					t.Errorf("the secret: %v", err)
				}
				size += mib
				must.OK(t, b.with(ctx, func(ctx context.Context, vm *hotplug.VM) error {
					resized, err := vm.Resize(ctx, "sdb", hotplug.ResizeOptions{Size: hotplug.NewSize{Bytes: size}})
					if err == nil && (!resized.File || resized.Payload != path) {
						t.Errorf("resized %+v", resized)
					}
					return err
				}))
				b.write(t, fmt.Sprintf("write -f -P %s %d 4k", byte, size-mib))
			}
			must.OK(t, b.with(ctx, func(ctx context.Context, vm *hotplug.VM) error {
				_, err := vm.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second})
				return err
			}))
			volume := reencrypt.Volume{Payload: path, Format: blockgraph.FormatRaw, UUID: "x", Secret: secret}
			if layout == reencrypt.LayoutDetachedRaw {
				volume.Header = filepath.Join(b.images, "disk.hdr")
			}
			if plain := b.content(t, volume); plain[0] != 0x5a || plain[3*mib] != 0x44 || plain[8*mib] != 0x22 || plain[9*mib] != 0x44 {
				t.Error("the volume lacks data")
			}
			b.attachDisk(t, xml)
			b.write(t, "read -P 0x44 3M 4k")
		})
	}
}

// wantAttached checks that a disk is found attached by its document, that the path of its image is the present one, and that no other
// target gets the image.
func (b *bench) wantAttached(t *testing.T, xml, path string) {
	t.Helper()
	must.OK(t, b.with(t.Context(), func(ctx context.Context, vm *hotplug.VM) error {
		got, err := vm.Attach(ctx, must.Get(diskxml.ParseDisk([]byte(xml)))(t), b.keys, hotplug.AttachOptions{})
		if err == nil && !got.Already {
			t.Error("the disk was attached again")
		}
		disks, listErr := vm.List(ctx)
		if len(disks) != 1 || disks[0].Payload != path {
			t.Errorf("the VM has %+v, %v", disks, listErr)
		}
		other := must.Get(diskxml.ParseDisk([]byte(strings.ReplaceAll(xml, "sdb", "sdc"))))(t)
		if _, err := vm.Attach(ctx, other, b.keys, hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrImageInUse) {
			t.Errorf("as another disk: %v", err)
		}
		return err
	}))
	for _, u := range must.Get(b.Attached())(t) {
		if u.Payload != path {
			t.Errorf("in use: %+v", u)
		}
	}
}

// wantMigrationKeepsFile has the VM migrate to a file and go on here, with another file at the name by which QEMU has opened the
// image: that one stays as it is.
func (b *bench) wantMigrationKeepsFile(t *testing.T, opened, write string) {
	t.Helper()
	decoy := bytes.Repeat([]byte{0xdd}, 16*mib)
	must.OK(t, os.WriteFile(opened, decoy, 0o600))
	must.OK(t, b.with(t.Context(), func(ctx context.Context, vm *hotplug.VM) error {
		for _, cmd := range []qmp.Command{{Execute: "cont"}, {Execute: "migrate", Arguments: qmp.Object{{Name: "uri", Value: "exec:cat > /dev/null"}}}} {
			if _, err := vm.Client().Execute(ctx, cmd); err != nil {
				return err
			}
		}
		for {
			out, err := vm.Client().Execute(ctx, qmp.Command{Execute: "query-migrate"})
			if err != nil || bytes.Contains(out, []byte(`"failed"`)) {
				return fmt.Errorf("migrate: %s, %w", out, err)
			}
			if bytes.Contains(out, []byte(`"completed"`)) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		_, err := vm.Client().Execute(ctx, qmp.Command{Execute: "cont"})
		return err
	}))
	b.write(t, write)
	if !bytes.Equal(must.Get(os.ReadFile(opened))(t), decoy) {
		t.Error("QEMU has written to another file")
	}
	must.OK(t, os.Remove(opened))
}

// wantRefused checks that no use takes a volume that lacks data.
func (b *bench) wantRefused(t *testing.T, v reencrypt.Volume) {
	t.Helper()
	disk := must.Get(diskxml.ParseDisk([]byte(strings.ReplaceAll(v.XML, "sdb", "sdc"))))(t)
	err := b.with(t.Context(), func(ctx context.Context, vm *hotplug.VM) error {
		_, err := vm.Attach(ctx, disk, b.keys, hotplug.AttachOptions{})
		return err
	})
	if !errors.Is(err, hotplug.ErrImageInUse) && !errors.Is(err, hotplug.ErrIncomplete) {
		t.Errorf("attach: %v", err)
	}
	r := volume.Request{Path: v.Payload, Size: 8 * mib, Force: must.Get(os.Stat(v.Payload))(t).Size()}
	if _, err := volume.Create(t.Context(), r, b.Keys); v.UUID == "" && !errors.Is(err, volume.ErrIncomplete) {
		t.Errorf("create: %v", err)
	}
}

// TestPrepareRefusesInPlace: only files beside each other can get the names of the old ones, and a user is told of documents that are
// wrong then.
func TestPrepareRefusesInPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(dir, "disk.img"), Header: filepath.Join(dir, "disk.hdr"), Size: mib, Passphrase: secrets.New([]byte("passphrase"))}, nil))(t)
	link := filepath.Join(dir, "link.img")
	must.OK(t, os.Symlink(v.Path, link))
	disk := v.DiskXML("sdb", "")
	for name, c := range map[string]struct {
		change func(*reencrypt.Request)
		want   error
		warns  int
	}{
		"in another directory":                {func(r *reencrypt.Request) { r.Path = filepath.Join(t.TempDir(), "new.img") }, reencrypt.ErrRequest, 0},
		"the header in another directory":     {func(r *reencrypt.Request) { r.Header = filepath.Join(t.TempDir(), "new.hdr") }, reencrypt.ErrRequest, 0},
		"a link":                              {func(r *reencrypt.Request) { r.Disk = bytes.ReplaceAll(disk, []byte(v.Path), []byte(link)) }, reencrypt.ErrRequest, 0},
		"files that are given by their names": {func(r *reencrypt.Request) { r.Spec.Relabel = true }, reencrypt.ErrRequest, 0},
		"another secret":                      {func(*reencrypt.Request) {}, nil, 1},
		"the same one": {func(r *reencrypt.Request) {
			r.Secret, r.Passphrase = v.Secret, secrets.New([]byte("passphrase"))
		}, nil, 0},
	} {
		r := reencrypt.Request{Disk: disk, Size: mib, InPlace: true}
		c.change(&r)
		p, err := reencrypt.Prepare(t.Context(), r)
		if !errors.Is(err, c.want) || err == nil && (!p.Entry.InPlace || len(p.Warnings) != c.warns) {
			t.Errorf("%s: %v, %+v", name, err, p)
		}
	}
}

// TestPrepareRefusesPlain: what cannot be marked is refused, and names that are taken.
func TestPrepareRefusesPlain(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	dir := t.TempDir()
	v := must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(dir, "disk.img"), Size: mib, Passphrase: secrets.New([]byte("passphrase"))}, nil))(t)
	taken := filepath.Join(dir, "taken.img")
	must.OK(t, os.WriteFile(taken, nil, 0o600))
	encrypted := v.DiskXML("sdb", "")
	plain := []byte("<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='" + taken + "'/><target dev='sdb' bus='scsi'/></disk>")
	for name, c := range map[string]struct {
		disk []byte
		path string
		want error
	}{
		"a name that is taken":             {encrypted, taken, volume.ErrExists},
		"no encryption, before or after":   {plain, filepath.Join(dir, "new.img"), reencrypt.ErrRequest},
		"a file system without attributes": {encrypted, "/dev/pts/new.img", volume.ErrNoAttributes},
	} {
		if os.Geteuid() != 0 && errors.Is(c.want, volume.ErrNoAttributes) {
			continue // no user may write there
		}
		_, err := reencrypt.Prepare(t.Context(), reencrypt.Request{Disk: c.disk, Size: mib, Layout: reencrypt.LayoutRaw, Path: c.path})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
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
