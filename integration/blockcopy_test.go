package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

var _ reencrypt.Engine = libvirtvm.BlockCopy{}

// managed is a domain of a private libvirtd whose disks libvirt itself has attached.
type managed struct {
	*peer.Libvirt
	domain *peer.Domain
}

// with opens the domain.
func (m managed) with(ctx context.Context, f func(context.Context, *libvirtvm.Domain) error) error {
	d, err := libvirtvm.Open(ctx, m.URI, m.domain.Name, libvirtvm.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return f(ctx, d)
}

// engine returns the engine that copies a disk to a volume.
func (m managed) engine(target string, v *peer.Volume) libvirtvm.BlockCopy {
	return libvirtvm.BlockCopy{Target: target, To: v.Payload, With: m.with}
}

// define gives libvirt the passphrase of a volume.
func (m managed) define(ctx context.Context, t *testing.T, v *peer.Volume, passphrase string) {
	t.Helper()
	xml := "<secret ephemeral='no' private='yes'><uuid>" + v.SecretUUID + "</uuid></secret>"
	virsh(ctx, t, m.Libvirt, "secret-define", writeFile(t, "secret.xml", xml))
	virsh(ctx, t, m.Libvirt, "secret-set-value", v.SecretUUID, "--file", passphrase, "--plain")
}

// attach has libvirt attach a raw image of 64 MiB.
func (m managed) attach(ctx context.Context, t *testing.T, target, driver, source, inside string) {
	t.Helper()
	xml := fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='virtio'/>%s</disk>", driver, source, target, inside)
	virsh(ctx, t, m.Libvirt, "attach-device", m.domain.Name, writeFile(t, "disk.xml", xml), "--live")
}

// volumeOf returns the document of a disk of libvirt's on another volume, and that disk.
func (m managed) volumeOf(ctx context.Context, t *testing.T, target string, v *peer.Volume) *blockgraph.Disk {
	t.Helper()
	var disk *libvirtvm.ManagedDisk
	must.OK(t, m.with(ctx, func(ctx context.Context, d *libvirtvm.Domain) (err error) {
		disk, err = d.ManagedDisk(ctx, target)
		return err
	}))
	if disk.Size != v.Size {
		t.Errorf("the disk has %d bytes", disk.Size)
	}
	to := diskxml.LocalVolume{Format: blockgraph.Format(v.Format), Payload: diskxml.LocalImage{Path: v.Payload}, Header: diskxml.LocalImage{Path: v.Header}}
	to.Secret = secrets.Reference{Type: secrets.Passphrase, UUID: must.Get(secrets.ParseUUID(v.SecretUUID))(t)}
	return must.Get(diskxml.ParseDisk(must.Get(diskxml.WithVolume(disk.XML, to))(t)))(t)
}

// untilInStep waits until the volumes are in step.
func untilInStep(ctx context.Context, t *testing.T, e reencrypt.Engine) {
	t.Helper()
	must.OK(t, reencrypt.Setting{Engine: e}.Wait(ctx, reencrypt.Waiting{Poll: 50 * time.Millisecond}))
}

// wantOn checks on which image a disk of libvirt's is, in both descriptions, and that its encryption and nothing else differs.
func (m managed) wantOn(ctx context.Context, t *testing.T, target string, v *peer.Volume) {
	t.Helper()
	for scope, flags := range map[string][]string{"live": nil, "inactive": {"--inactive"}} {
		text := virsh(ctx, t, m.Libvirt, append([]string{"dumpxml", m.domain.Name}, flags...)...)
		if strings.Count(text, v.Payload) != 1 || !strings.Contains(text, v.SecretUUID) || !strings.Contains(text, "type='"+v.Format+"' cache='none'") || !strings.Contains(text, "<serial>managed</serial>") || strings.Contains(text, "<mirror") {
			t.Errorf("%s: %s", scope, text)
		}
	}
	if path := must.Get(m.engine(target, v).Payload(ctx))(t); path != v.Payload {
		t.Errorf("the disk uses %s", path)
	}
}

// TestBlockCopy: a plain disk that libvirt has attached is encrypted while its guest writes, and is then copied to a qcow2 image with
// LUKS. libvirt has each volume in both descriptions, and starts the domain with it.
func TestBlockCopy(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	m := managed{Libvirt: peer.Libvirtd(t)}
	plain := sized(t, "plain.img", peer.VolumeSize)
	m.domain = must.Get(m.StartDomain(ctx, peer.DomainOptions{Guest: true, Persistent: true, Devices: `<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
<source file='` + plain + `'/><target dev='vdb' bus='virtio'/><serial>managed</serial></disk>`}))(t)
	must.OK(t, m.domain.Guest().WaitBoot(ctx))
	device := guestDisk(ctx, t, m.domain, "managed")
	pattern := []byte("before the encryption. ")
	must.OK(t, m.domain.Guest().WritePattern(ctx, device, 40, 1, pattern))
	log := startLog(ctx, t, m.domain.Guest(), device)
	raw, qcow2 := peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.Qcow2LUKS)
	m.define(ctx, t, raw, raw.PassphraseFile)
	m.define(ctx, t, qcow2, qcow2.PassphraseFile)
	inactive := virsh(ctx, t, m.Libvirt, "dumpxml", "--inactive", m.domain.Name)

	e := m.engine("vdb", raw)
	location := volume.Location{Path: raw.Payload}
	mark := func(ctx context.Context) error { return volume.MarkIncomplete(ctx, location) }
	must.OK(t, e.Start(ctx, m.volumeOf(ctx, t, "vdb", raw), nil, hotplug.CopyOptions{Opened: mark, Speed: 1 << 20}))
	if c := must.Get(e.Copy(ctx))(t); c.Phase != hotplug.CopyRunning || c.Speed != 1<<20 || c.Total == 0 || c.Disk.Payload != plain {
		t.Errorf("begun: %+v", c)
	}
	if err := e.Start(ctx, m.volumeOf(ctx, t, "vdb", raw), nil, hotplug.CopyOptions{}); !errors.Is(err, hotplug.ErrCopying) {
		t.Errorf("a second copy: %v", err)
	}
	if _, err := e.Switch(ctx, hotplug.Switch{}); !errors.Is(err, hotplug.ErrNotInStep) {
		t.Errorf("a switch too early: %v", err)
	}
	if _, err := m.engine("vdb", qcow2).Copy(ctx); !errors.Is(err, hotplug.ErrNoCopy) {
		t.Errorf("another program's copy: %v", err)
	}
	must.OK(t, m.Crash(ctx)) // the job goes on
	must.OK(t, e.SetSpeed(ctx, 0))
	untilInStep(ctx, t, e)
	failed, undone := errors.New("not now"), false
	_, err := e.Switch(ctx, hotplug.Switch{Before: func(context.Context) error { return failed }, Undo: func(context.Context) error { undone = true; return nil }})
	if rolledBack := (*hotplug.RolledBackError)(nil); !errors.As(err, &rolledBack) || !errors.Is(err, failed) || !undone {
		t.Errorf("a switch that fails: %v, undone %t", err, undone)
	}
	if c := must.Get(e.Copy(ctx))(t); c.Phase != hotplug.CopyInStep || virsh(ctx, t, m.Libvirt, "dumpxml", "--inactive", m.domain.Name) != inactive {
		t.Errorf("after that: %+v", c)
	}
	switched := must.Get(e.Switch(ctx, hotplug.Switch{Before: func(ctx context.Context) error { return volume.Complete(ctx, location) }}))(t)
	t.Logf("the switch has taken %s", switched.Took)
	if switched.Payload != raw.Payload || must.Get(e.Copy(ctx))(t).Phase != hotplug.CopyEnded || !errors.Is(e.Cancel(ctx), hotplug.ErrSwitched) {
		t.Errorf("switched: %+v", switched)
	}
	m.wantOn(ctx, t, "vdb", raw)
	must.OK(t, os.Rename(plain, plain+".old"))
	wantHash(ctx, t, m.domain, device, 40, pattern)
	log.wantMore(ctx, t, m.domain.Guest())

	e = m.engine("vdb", qcow2)
	must.OK(t, e.Start(ctx, m.volumeOf(ctx, t, "vdb", qcow2), nil, hotplug.CopyOptions{Speed: 1 << 20}))
	must.OK(t, e.Cancel(ctx))
	if err := e.Cancel(ctx); !errors.Is(err, hotplug.ErrNoCopy) {
		t.Errorf("canceled again: %v", err)
	}
	m.wantOn(ctx, t, "vdb", raw)
	must.OK(t, e.Start(ctx, m.volumeOf(ctx, t, "vdb", qcow2), nil, hotplug.CopyOptions{}))
	untilInStep(ctx, t, e)
	must.Get(e.Switch(ctx, hotplug.Switch{}))(t)
	m.wantOn(ctx, t, "vdb", qcow2)
	lines := log.stop(ctx, t, m.domain.Guest())

	virsh(ctx, t, m.Libvirt, "destroy", m.domain.Name)
	checkVolumeLog(ctx, t, qcow2, device, lines)
	must.OK(t, m.domain.Start(ctx))
	device = guestDisk(ctx, t, m.domain, "managed")
	wantHash(ctx, t, m.domain, device, 40, pattern)
}

// TestBlockCopyInPool: libvirt also replaces a volume that the definition names by a pool.
func TestBlockCopyInPool(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	m := managed{Libvirt: peer.Libvirtd(t)}
	dir := shortDir(t, "")
	must.OK(t, os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600), os.Truncate(filepath.Join(dir, "plain"), peer.VolumeSize))
	virsh(ctx, t, m.Libvirt, "pool-create-as", "images", "dir", "--target", dir)
	m.domain = must.Get(m.StartDomain(ctx, peer.DomainOptions{Persistent: true, Devices: `<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'/>
<source pool='images' volume='plain'/><target dev='vdb' bus='virtio'/><serial>managed</serial></disk>`}))(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	m.define(ctx, t, v, v.PassphraseFile)
	e := m.engine("vdb", v)
	must.OK(t, e.Start(ctx, parsed(t, []byte(v.DiskXML("vdb", "virtio"))), nil, hotplug.CopyOptions{}))
	untilInStep(ctx, t, e)
	must.Get(e.Switch(ctx, hotplug.Switch{}))(t)
	m.wantOn(ctx, t, "vdb", v)
}

// TestBlockCopyRefused: what libvirt does not carry is refused by name, and nothing changes.
func TestBlockCopyRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	m := managed{Libvirt: peer.Libvirtd(t)}
	m.domain = must.Get(m.StartDomain(ctx, peer.DomainOptions{Persistent: true}))(t)
	image := func() string { return sized(t, "plain.img", peer.VolumeSize) }
	overlay := filepath.Join(t.TempDir(), "overlay.qcow2")
	must.Get(exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", overlay, "64M").CombinedOutput())(t)
	m.attach(ctx, t, "vdb", "raw", image(), "")
	m.attach(ctx, t, "vdc", "raw", image(), "<shareable/>")
	m.attach(ctx, t, "vdd", "raw", image(), "<readonly/>")
	m.attach(ctx, t, "vde", "qcow2", overlay, "")
	transient := filepath.Join(t.TempDir(), "transient.qcow2")
	must.Get(exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", transient, "64M").CombinedOutput())(t)
	m.attach(ctx, t, "vdf", "qcow2", transient, "<transient/>")
	checkpoint := "<domaincheckpoint><name>c1</name><disks><disk name='vde' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/><disk name='vdc' checkpoint='no'/><disk name='vdd' checkpoint='no'/><disk name='vdf' checkpoint='no'/></disks></domaincheckpoint>"
	virsh(ctx, t, m.Libvirt, "checkpoint-create", m.domain.Name, writeFile(t, "checkpoint.xml", checkpoint))
	good := peer.NewVolume(t, peer.EmbeddedLUKS)
	m.define(ctx, t, good, good.PassphraseFile)
	small := peer.NewVolume(t, peer.EmbeddedLUKS)
	must.OK(t, os.Truncate(small.Payload, must.Get(os.Stat(small.Payload))(t).Size()-peer.MiB))
	luks2 := peer.NewFormatted(t, peer.EmbeddedLUKS, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	unknown, wrong, plain := peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.EmbeddedLUKS)
	m.define(ctx, t, wrong, writeFile(t, "wrong", "wrong"))
	must.OK(t, os.WriteFile(plain.Payload, make([]byte, peer.VolumeSize), 0o600))
	gone := *good
	gone.Payload = filepath.Join(t.TempDir(), "gone")
	before := virsh(ctx, t, m.Libvirt, "dumpxml", m.domain.Name)
	for name, c := range map[string]struct {
		target string
		to     *peer.Volume
		want   error
		says   string
	}{
		"shareable":       {"vdc", good, hotplug.ErrUncopyable, "<shareable/>"},
		"transient":       {"vdf", good, hotplug.ErrUncopyable, "<transient/>"},
		"read-only":       {"vdd", good, hotplug.ErrReadOnlyImage, "read-only"},
		"checkpoint":      {"vde", good, libvirtvm.ErrSnapshots, "checkpoint c1"},
		"detached header": {"vdb", peer.NewVolume(t, peer.DetachedRaw), libvirtvm.ErrNotByLibvirt, "<header>"},
		"LUKS2":           {"vdb", luks2, libvirtvm.ErrNotByLibvirt, "LUKS2"},
		"another size":    {"vdb", small, hotplug.ErrSize, "67108864"},
		"no header":       {"vdb", plain, hotplug.ErrHeaderUnusable, "no LUKS header"},
		"no image":        {"vdb", &gone, hotplug.ErrImageUnusable, gone.Payload},
		"no secret":       {"vdb", unknown, secrets.ErrNotFound, unknown.SecretUUID},
	} {
		err := m.engine(c.target, c.to).Start(ctx, parsed(t, []byte(c.to.DiskXML(c.target, "virtio"))), nil, hotplug.CopyOptions{})
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if after := virsh(ctx, t, m.Libvirt, "dumpxml", m.domain.Name); after != before {
			t.Errorf("%s: before %s\nafter  %s", name, before, after)
		}
	}
	var rolledBack *hotplug.RolledBackError
	if err := m.engine("vdb", wrong).Start(ctx, parsed(t, []byte(wrong.DiskXML("vdb", "virtio"))), nil, hotplug.CopyOptions{}); !errors.As(err, &rolledBack) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	unmarked := errors.New("it cannot be marked")
	options := hotplug.CopyOptions{Opened: func(context.Context) error { return unmarked }}
	if err := m.engine("vdb", good).Start(ctx, parsed(t, []byte(good.DiskXML("vdb", "virtio"))), nil, options); !errors.As(err, &rolledBack) || !errors.Is(err, unmarked) {
		t.Errorf("not marked: %v", err)
	}
	if after := virsh(ctx, t, m.Libvirt, "dumpxml", m.domain.Name); after != before {
		t.Errorf("rolled back: before %s\nafter  %s", before, after)
	}
	var missing *hotplug.NotHeldError
	if _, err := m.engine("vdz", good).Copy(ctx); !errors.As(err, &missing) {
		t.Errorf("no such disk: %v", err)
	}
	virsh(ctx, t, m.Libvirt, "destroy", m.domain.Name)
	if _, err := m.engine("vdb", good).Copy(ctx); !errors.Is(err, libvirtvm.ErrOff) {
		t.Errorf("a domain that is off: %v", err)
	}
}

// keeperAndLibvirt is a store whose secrets libvirt has as well.
type keeperAndLibvirt struct {
	secrets.Keeper
	set func(ref secrets.Reference, value *secrets.Secret) error
}

// Set implements [secrets.Keeper].
func (k keeperAndLibvirt) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	if err := k.Keeper.Set(ctx, ref, value); err != nil {
		return err
	}
	return k.set(ref, value)
}

// TestReencryptManaged: a plain disk that libvirt has attached is encrypted by the steps of a re-encryption, while its guest writes, and
// in a long run then gets another data key. What is canceled leaves nothing.
func TestReencryptManaged(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	m := managed{Libvirt: peer.Libvirtd(t)}
	dir := shortDir(t, "")
	plain := filepath.Join(dir, "vm1.img")
	must.OK(t, os.WriteFile(plain, nil, 0o600), os.Truncate(plain, 64*peer.MiB))
	m.domain = must.Get(m.StartDomain(ctx, peer.DomainOptions{Guest: true, Persistent: true, Devices: `<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
<source file='` + plain + `'/><target dev='vdb' bus='virtio'/><serial>managed</serial></disk>`}))(t)
	must.OK(t, m.domain.Guest().WaitBoot(ctx))
	device := guestDisk(ctx, t, m.domain, "managed")
	log := startLog(ctx, t, m.domain.Guest(), device)
	keys := newKeys(t)
	define := func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
		return keeperAndLibvirt{keys, func(ref secrets.Reference, value *secrets.Secret) error {
			return value.Use(func(b []byte) error {
				m.define(ctx, t, &peer.Volume{SecretUUID: ref.UUID.String()}, writeFile(t, "passphrase", string(b)))
				return nil
			})
		}}, keys.Define(ctx, d)
	}
	s := reencrypt.Setting{Journal: reencrypt.Journal{Dir: filepath.Join(t.TempDir(), "journal")}, Store: keys, Keys: define,
		Forget: func(ctx context.Context, ref secrets.Reference, _ string) error {
			virsh(ctx, t, m.Libvirt, "secret-undefine", ref.UUID.String())
			return keys.Remove(ctx, ref)
		}}
	start := func() reencrypt.Entry {
		var disk *libvirtvm.ManagedDisk
		must.OK(t, m.with(ctx, func(ctx context.Context, d *libvirtvm.Domain) (err error) {
			disk, err = d.ManagedDisk(ctx, "vdb")
			return err
		}))
		p := must.Get(reencrypt.Prepare(ctx, reencrypt.Request{Disk: disk.XML, Size: disk.Size, VM: reencrypt.VM{Name: m.domain.Name}}))(t)
		s.Engine = m.engine("vdb", &peer.Volume{Payload: p.Entry.Target.Payload})
		return must.Get(s.Start(ctx, p))(t)
	}
	canceled := start()
	must.OK(t, s.Cancel(ctx, canceled))
	if _, err := os.Stat(canceled.Target.Payload); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new volume of a canceled copy: %v", err)
	}
	var last reencrypt.Entry
	rounds := 1
	if peer.IsLong() {
		rounds = 2
	}
	for range rounds {
		e := start()
		if info := must.Get(volume.Inspect(ctx, e.Target.Payload, "", nil))(t); !info.LUKS.Incomplete {
			t.Error("the new volume is not marked")
		}
		must.OK(t, s.Wait(ctx, reencrypt.Waiting{Poll: 50 * time.Millisecond}))
		done, switched, err := s.Finish(ctx, e)
		must.OK(t, err)
		t.Logf("the switch has taken %s", switched.Took)
		log.wantMore(ctx, t, m.domain.Guest())
		m.wantOn(ctx, t, "vdb", &peer.Volume{Payload: done.Target.Payload, Format: "raw", SecretUUID: done.Target.Secret.UUID.String()})
		must.OK(t, s.DiscardOld(ctx, done))
		last = done
	}
	lines := log.stop(ctx, t, m.domain.Guest())
	virsh(ctx, t, m.Libvirt, "destroy", m.domain.Name)
	r := &reencryption{keys: keys}
	checkLog(t, r.plaintext(ctx, t, last.Target), device, lines)
	if names := must.Get(filepath.Glob(filepath.Join(dir, "*")))(t); len(names) != 1 || names[0] != last.Target.Payload {
		t.Errorf("the directory has %v", names)
	}
	must.OK(t, m.domain.Start(ctx))
	guestDisk(ctx, t, m.domain, "managed")
}
