package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets/luks"
)

// ManagedDisk is a disk that libvirt itself has attached.
type ManagedDisk struct {
	// XML is its <disk> as libvirt has it in the running domain, without what describes a job or belongs to libvirt alone.
	XML []byte
	// Size is that of the disk in the guest, in bytes.
	Size int64
}

// ManagedDisk returns a disk that libvirt itself has attached to the running domain. The error is a [*hotplug.NotHeldError] if libvirt
// has none with that target, and wraps [ErrOff].
func (d *Domain) ManagedDisk(ctx context.Context, target string) (*ManagedDisk, error) {
	disk, err := d.ownDisk(ctx, target)
	if err != nil {
		return nil, err
	}
	size, err := d.sizeOf(ctx, target)
	if err != nil {
		return nil, err
	}
	disk.Mirror, disk.Alias = nil, nil
	disk.Source.Index = 0
	if disk.BackingStore != nil && disk.BackingStore.Source == nil {
		disk.BackingStore = nil
	}
	text, err := disk.Marshal()
	if err != nil {
		return nil, err
	}
	return &ManagedDisk{XML: []byte(text), Size: size}, nil
}

// ownDisk returns a disk of libvirt's in the running domain. It has a source.
func (d *Domain) ownDisk(ctx context.Context, target string) (*libvirtxml.DomainDisk, error) {
	running, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, &hotplug.PreflightError{Target: target, Cause: ErrOff, Reason: fmt.Sprintf("domain %s is off", d.name)}
	}
	doc, err := d.describe(ctx)
	if err != nil {
		return nil, err
	}
	return diskIn(string(doc.Text()), d.name, target)
}

// diskIn returns the disk with a target in a domain's XML.
func diskIn(text, name, target string) (*libvirtxml.DomainDisk, error) {
	var domain libvirtxml.Domain
	if err := domain.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", name, err)
	}
	var held []string
	if domain.Devices != nil {
		for i := range domain.Devices.Disks {
			one := &domain.Devices.Disks[i]
			if one.Target == nil || one.Source == nil {
				continue
			}
			if one.Target.Dev == target {
				return one, nil
			}
			held = append(held, one.Target.Dev)
		}
	}
	return nil, fmt.Errorf("domain %s has no disk %s that libvirt has attached: %w", name, target, &hotplug.NotHeldError{Target: target, Held: held, VM: name})
}

// pathOf returns the path of an image, POOL/VOLUME for a volume of a pool, and "" for another source.
func pathOf(s *libvirtxml.DomainDiskSource) string {
	switch {
	case s == nil:
		return ""
	case s.File != nil:
		return s.File.File
	case s.Block != nil:
		return s.Block.Dev
	case s.Volume != nil:
		return s.Volume.Pool + "/" + s.Volume.Volume
	}
	return ""
}

// sizeOf returns the size of a disk in the guest, in bytes.
func (d *Domain) sizeOf(ctx context.Context, target string) (int64, error) {
	size, err := call(ctx, d, func() (uint64, error) {
		_, capacity, _, err := d.libvirt.DomainGetBlockInfo(d.handle, target, 0)
		return capacity, err
	})
	if err != nil {
		return 0, d.failed(err)
	}
	return int64(size), nil
}

// definedSource returns the path of a disk's image in the domain's definition, "" if it has none or there is no definition.
func (d *Domain) definedSource(ctx context.Context, target string) (string, error) {
	disk, err := d.definedDisk(ctx, target)
	if err != nil || disk == nil {
		return "", err
	}
	return pathOf(disk.Source), nil
}

// definedDisk returns a disk in the domain's definition, nil if it has none.
func (d *Domain) definedDisk(ctx context.Context, target string) (*libvirtxml.DomainDisk, error) {
	persistent, err := call(ctx, d, func() (int32, error) { return d.libvirt.DomainIsPersistent(d.handle) })
	if err != nil {
		return nil, d.failed(err)
	}
	if persistent == 0 {
		return nil, nil
	}
	doc, err := d.definition(ctx)
	if err != nil {
		return nil, err
	}
	disk, err := diskIn(string(doc.Text()), d.name, target)
	if missing := (*hotplug.NotHeldError)(nil); errors.As(err, &missing) {
		return nil, nil
	}
	return disk, err
}

// errDefinition is why a switch is not complete.
var errDefinition = errors.New("libvirt has not replaced the old volume in the definition of the domain")

// checkDefinition returns an error if the definition still has the old volume after a switch. was is what it had before. libvirt
// replaces it together with that of the running domain.
func (d *Domain) checkDefinition(ctx context.Context, target, was, old string) error {
	if was != old {
		return nil // another disk, which the domain gets at its next start
	}
	now, err := d.definedSource(ctx, target)
	if err == nil && now == old {
		err = errDefinition
	}
	return err
}

// destination returns the new volume as libvirt takes it. The engine is that of QEMU, which has to be said: libvirt 11.3 sets it
// only after it has decided whether QEMU decrypts, and would copy plaintext over the volume, header and all. Only the other size
// of a raw volume without its header has QEMU refuse that.
func destination(disk *libvirtxml.DomainDisk, to *blockgraph.Disk) *libvirtxml.DomainDisk {
	source := &libvirtxml.DomainDiskSource{}
	if to.Image.Source.Kind == blockgraph.SourceBlock {
		source.Block = &libvirtxml.DomainDiskSourceBlock{Dev: to.Image.Source.Path}
	} else {
		source.File = &libvirtxml.DomainDiskSourceFile{File: to.Image.Source.Path}
	}
	if e := to.Image.Encryption; e != nil {
		secret := libvirtxml.DomainDiskSecret{Type: "passphrase", Usage: e.Secrets[0].Usage}
		if e.Secrets[0].UUID != uuid.Nil {
			secret.UUID = e.Secrets[0].UUID.String()
		}
		source.Encryption = &libvirtxml.DomainDiskEncryption{Format: "luks", Engine: "qemu", Secrets: []libvirtxml.DomainDiskSecret{secret}}
	}
	return &libvirtxml.DomainDisk{Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: string(to.Image.Format)}, Source: source, Target: disk.Target}
}

// checkBlockCopy refuses what libvirt would refuse late, or would not follow, and returns the disk.
func (d *Domain) checkBlockCopy(ctx context.Context, target string, to *blockgraph.Disk) (*libvirtxml.DomainDisk, error) {
	refuse := func(cause error, format string, args ...any) (*libvirtxml.DomainDisk, error) {
		return nil, &hotplug.PreflightError{Target: target, Cause: cause, Reason: fmt.Sprintf(format, args...)}
	}
	if !d.uri.Local() {
		return refuse(hotplug.ErrRemoteVM, "the domain runs on another machine, where the new volume has to be: run luksplug there")
	}
	disk, err := d.ownDisk(ctx, target)
	if err != nil {
		return nil, err
	}
	switch {
	case disk.Device == "lun", disk.Device == "cdrom", disk.Device == "floppy":
		return refuse(hotplug.ErrUncopyable, "it is a %s (<disk device='%s'>): libvirt copies disks", disk.Device, disk.Device)
	case disk.Transient != nil:
		return refuse(hotplug.ErrUncopyable, "it is transient (<transient/>), and libvirt copies no disk whose writes are lost")
	case disk.Shareable != nil:
		return refuse(hotplug.ErrUncopyable, "it is shareable (<shareable/>), and the other VMs would keep the old volume: detach it everywhere first")
	case disk.ReadOnly != nil:
		return refuse(hotplug.ErrReadOnlyImage, "it is read-only in the domain: detach it first")
	case disk.Mirror != nil:
		return refuse(hotplug.ErrCopying, "libvirt copies it to %s already: wait until that has ended, or end it ('virsh blockjob %s %s --abort')", pathOf(disk.Mirror.Source), d.name, target)
	}
	const synchronous = 8000000 // the first libvirt with VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
	version, err := call(ctx, d, d.libvirt.ConnectGetLibVersion)
	if err != nil {
		return nil, d.failed(err)
	}
	if version < synchronous {
		return refuse(ErrNotByLibvirt, "libvirt %d.%d.%d cannot keep both volumes in step (synchronous writes): that takes 8.0", version/1000000, version/1000%1000, version%1000)
	}
	if err := d.checkSnapshots(ctx, target); err != nil {
		return nil, err
	}
	size, err := d.sizeOf(ctx, target)
	if err != nil {
		return nil, err
	}
	return disk, checkDestination(target, to, size)
}

// checkSnapshots refuses a disk that libvirt has snapshots or checkpoints of: their data and bitmaps are in the old volume, and libvirt
// copies none of it, and keeps their entries, which it can then neither use nor delete.
func (d *Domain) checkSnapshots(ctx context.Context, target string) error {
	texts, err := call(ctx, d, func() (out []string, err error) {
		snapshots, _, err := d.libvirt.DomainListAllSnapshots(d.handle, 1, 0)
		if err != nil {
			return nil, err
		}
		for _, s := range snapshots {
			text, err := d.libvirt.DomainSnapshotGetXMLDesc(s, 0)
			if err != nil {
				return nil, err
			}
			out = append(out, text)
		}
		checkpoints, _, err := d.libvirt.DomainListAllCheckpoints(d.handle, 1, 0)
		if err != nil {
			return nil, err
		}
		for _, c := range checkpoints {
			text, err := d.libvirt.DomainCheckpointGetXMLDesc(c, 0)
			if err != nil {
				return nil, err
			}
			out = append(out, text)
		}
		return out, nil
	})
	if err != nil {
		return d.failed(err)
	}
	for _, text := range texts {
		kind, name, err := stateWith(text, target)
		if err != nil {
			return fmt.Errorf("the snapshots of domain %s: %w", d.name, err)
		}
		if name != "" {
			return &hotplug.PreflightError{Target: target, Cause: ErrSnapshots, Reason: fmt.Sprintf("libvirt has the %s %s of it, which is in the old volume: delete it first ('virsh %s-delete %s %s')", kind, name, kind, d.name, name)}
		}
	}
	return nil
}

// stateWith returns the kind and the name of a snapshot or checkpoint that has a part of a disk, "" if it has none.
func stateWith(text, target string) (kind, name string, err error) {
	var s libvirtxml.DomainSnapshot
	if err := s.Unmarshal(text); err == nil {
		if s.Disks != nil && slices.ContainsFunc(s.Disks.Disks, func(d libvirtxml.DomainSnapshotDisk) bool { return d.Name == target && d.Snapshot != "no" }) {
			return "snapshot", s.Name, nil
		}
		return "", "", nil
	}
	var c libvirtxml.DomainCheckpoint
	if err := c.Unmarshal(text); err != nil {
		return "", "", err
	}
	if c.Disks != nil && slices.ContainsFunc(c.Disks.Disks, func(d libvirtxml.DomainCheckpointDisk) bool { return d.Name == target && d.Checkpoint != "no" }) {
		return "checkpoint", c.Name, nil
	}
	return "", "", nil
}

// checkDestination refuses a volume that libvirt cannot describe, or that is not as large as the disk.
func checkDestination(target string, to *blockgraph.Disk, size int64) error {
	refuse := func(cause, err error, format string, args ...any) error {
		return &hotplug.PreflightError{Target: target, Cause: cause, Reason: fmt.Sprintf(format, args...), Err: err}
	}
	at := to.Image.Source
	e := to.Image.Encryption
	switch {
	case !at.Local():
		return refuse(ErrNotByLibvirt, nil, "the new volume is %s: it has to be a whole file or block device of this host", at)
	case to.Image.Format != blockgraph.FormatRaw && to.Image.Format != blockgraph.FormatQcow2:
		return refuse(ErrNotByLibvirt, nil, "the new volume has the format %s: it has to be raw or qcow2", to.Image.Format)
	case to.Image.Backing != nil, to.Image.DataStore != nil:
		return refuse(ErrNotByLibvirt, nil, "the new volume has a backing or data file")
	case e == nil:
		return refuse(ErrNotByLibvirt, nil, "the new volume is not encrypted")
	case e.Header != nil:
		return refuse(ErrNotByLibvirt, nil, "the new volume has its header in a file of its own (<header>), which libvirt does not know: it would not find the volume again. Have the header in the image")
	case e.Engine != "" && e.Engine != blockgraph.EngineQEMU, len(e.Secrets) != 1:
		return refuse(ErrNotByLibvirt, nil, "the new volume is decrypted by %s", e.Engine)
	}
	info, err := image.Probe(at.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, image.ErrNotImage):
		return refuse(hotplug.ErrImageUnusable, err, "the new volume")
	case err != nil:
		return refuse(hotplug.ErrHeaderUnusable, err, "the new volume")
	}
	header, have := info.LUKS, int64(0)
	switch {
	case to.Image.Format == blockgraph.FormatQcow2 && info.Qcow2 != nil:
		header, have = info.Qcow2.LUKS, info.Qcow2.VirtualSize
	case header != nil:
		have = info.Size - header.PayloadOffset()
	}
	if header == nil || to.Image.Format == blockgraph.FormatQcow2 && info.Qcow2 == nil {
		return refuse(hotplug.ErrHeaderUnusable, nil, "the new volume %s has no LUKS header", at)
	}
	return checkHeader(header, at, have, size, refuse)
}

// checkHeader is the part of checkDestination about the LUKS header.
func checkHeader(header *luks.Header, at blockgraph.Source, have, size int64, refuse func(cause, err error, format string, args ...any) error) error {
	if header.Version != 1 {
		return refuse(ErrNotByLibvirt, nil, "the new volume %s is LUKS2, which QEMU's driver does not open: libvirt needs LUKS1", at)
	}
	if err := header.QEMUOpens(); err != nil {
		return refuse(ErrNotByLibvirt, err, "QEMU does not open the new volume %s", at)
	}
	if have != size {
		return refuse(hotplug.ErrSize, nil, "the new volume has %d bytes, and the disk %d: a copy needs the same size", have, size)
	}
	_, all, err := header.QEMUUnlockTime()
	if err != nil {
		return refuse(hotplug.ErrHeaderUnusable, err, "the LUKS header of the new volume %s", at)
	}
	if all > hotplug.DefaultMaxStall {
		return refuse(hotplug.ErrStall, nil, "QEMU would derive the key of the new volume for %s, and the guest would stall: lower the iterations of its header", all.Round(100_000_000))
	}
	return nil
}
