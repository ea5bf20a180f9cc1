package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/secrets"
)

// BlockCopy copies a disk that libvirt itself has attached to another volume, and switches to it, by libvirt's own job
// (virDomainBlockCopy): libvirt keeps its books of the disk right, in the running domain and in its definition. The methods are
// those of the engine of a re-encryption, and correspond to [hotplug.VM.StartCopy] and those beside it.
//
// In contrast to a disk of luksplug's, QEMU derives the key, and gets the passphrase from libvirt, which needs the secret and
// keeps it in QEMU. The volume must have one file, because libvirt 11.3 does not know a detached header, and LUKS1 with a cheap
// derivation, because the guest stalls meanwhile. The guest's writes go to both volumes from the beginning (write-blocking).
// libvirt ends a copy that has no room, and does not report why a copy has ended.
type BlockCopy struct {
	// Target is the disk's target.
	Target string
	// To is the path of the new volume. A job of libvirt's with another one is not touched.
	To string
	// With calls f with the domain. It opens the domain for that, and closes it afterwards.
	With func(ctx context.Context, f func(ctx context.Context, d *Domain) error) error
}

var (
	// ErrNotByLibvirt reports that libvirt cannot copy to a volume like this, or cannot find it again. It is wrapped in a
	// [*hotplug.PreflightError], whose text names what libvirt lacks.
	ErrNotByLibvirt = errors.New("libvirt cannot copy to this volume")
	// ErrSnapshots reports that libvirt has snapshots or checkpoints of a disk, which a copy would lose. It is wrapped in a
	// [*hotplug.PreflightError].
	ErrSnapshots = errors.New("libvirt has snapshots or checkpoints of the disk")
	// ErrJobGone is why a copy has ended, which libvirt does not report.
	ErrJobGone = errors.New("libvirt has ended the job, and does not report why: its log does, such as for a new volume without room")
)

// Renamed refuses, with [ErrNotByLibvirt]: libvirt keeps the names by which it has opened the files.
func (e BlockCopy) Renamed(context.Context, hotplug.Renaming) error {
	return &hotplug.PreflightError{Target: e.Target, Cause: ErrNotByLibvirt, Reason: "libvirt keeps the names of its disks' files: re-encrypt it to a volume of another name"}
}

// Start begins to copy to the volume of a disk, which nothing else may have open. options.Opened is called when libvirt's job has begun, with a speed of next
// to nothing: libvirt cannot open a volume without beginning to copy. Of options.Spec and options.Kept nothing is used.
//
// Before the first change a [*hotplug.PreflightError] has one of the causes [ErrOff], [ErrNotByLibvirt], [ErrSnapshots],
// [hotplug.ErrRemoteVM], [hotplug.ErrUncopyable], [hotplug.ErrReadOnlyImage], [hotplug.ErrCopying], [hotplug.ErrSize],
// [hotplug.ErrStall], [hotplug.ErrImageUnusable] or [hotplug.ErrHeaderUnusable]. A [*hotplug.SecretError] wraps
// [secrets.ErrNotFound] for a secret that libvirt has not, or not with a value. After a [*hotplug.RolledBackError] nothing is left.
func (b BlockCopy) Start(ctx context.Context, to *blockgraph.Disk, _ secrets.Store, options hotplug.CopyOptions) error {
	return b.With(ctx, func(ctx context.Context, d *Domain) error {
		disk, err := d.checkBlockCopy(ctx, b.Target, to)
		if err != nil {
			return err
		}
		xml, err := destination(disk, to).Marshal()
		if err != nil {
			return err
		}
		if err := d.startBlockCopy(ctx, b, to, xml, options); err != nil {
			return b.undoStart(ctx, d, err)
		}
		return nil
	})
}

// answering bounds the wait for libvirt's answer to a command that it may execute later. The caller's context does not end that wait:
// what libvirt will do could not be known.
const answering = time.Minute

// unanswered reports whether err leaves open what libvirt does: it is not an error of libvirt itself.
func unanswered(err error) bool { return err != nil && !errors.As(err, new(libvirt.Error)) }

// unverified returns the error after a command without an answer.
func (b BlockCopy) unverified(d *Domain, err error) error {
	return &hotplug.LeftBehindError{Target: b.Target, Left: []string{"libvirt's job that copies the disk"}, Unverified: true,
		Remedy: fmt.Sprintf("'virsh dumpxml %s' tells which volume disk %s uses, and whether the job runs (<mirror>)", d.name, b.Target), Err: err}
}

// opening is the speed until the new volume is marked, in bytes a second. 0 would be no limit.
const opening = 1

// startBlockCopy begins the job, and has it run once the new volume is marked.
func (d *Domain) startBlockCopy(ctx context.Context, b BlockCopy, to *blockgraph.Disk, xml string, options hotplug.CopyOptions) error {
	speed := options.Speed
	if options.Opened != nil {
		speed = opening
	}
	params := []libvirt.TypedParam{{Field: libvirt.DomainBlockCopyBandwidth, Value: *libvirt.NewTypedParamValueUllong(uint64(max(speed, 0)))}}
	const flags = libvirt.DomainBlockCopyReuseExt | libvirt.DomainBlockCopyTransientJob | libvirt.DomainBlockCopySynchronousWrites
	asked, cancel := ending.After(context.WithoutCancel(ctx), answering)
	defer cancel()
	err := d.try(asked, func() error { return d.libvirt.DomainBlockCopy(d.handle, b.Target, xml, params, flags) })
	switch {
	case unanswered(err):
		return b.unverified(d, err)
	case isLibvirt(err, libvirt.ErrNoSecret) && to.Image.Encryption != nil:
		return &hotplug.SecretError{Target: b.Target, Ref: to.Image.Encryption.Secrets[0], Err: fmt.Errorf("libvirt has no value for it, and QEMU gets it from there (virsh secret-define, secret-set-value): %w: %w", secrets.ErrNotFound, err)}
	case isLibvirt(err, libvirt.ErrBlockCopyActive):
		return &hotplug.PreflightError{Target: b.Target, Cause: hotplug.ErrCopying, Reason: "libvirt has a job on it", Err: err}
	case err != nil || options.Opened == nil:
		return err
	}
	if err := options.Opened(ctx); err != nil {
		return err
	}
	return d.setBlockCopySpeed(ctx, b.Target, options.Speed)
}

// undoStart ends a job whose start has failed, or may have failed.
func (b BlockCopy) undoStart(ctx context.Context, d *Domain, cause error) error {
	var secret *hotplug.SecretError
	var left *hotplug.LeftBehindError
	if errors.As(cause, &secret) || errors.As(cause, &left) || errors.Is(cause, hotplug.ErrCopying) {
		return cause // before the first change, or after one of unknown outcome
	}
	after, cancel := ending.After(context.WithoutCancel(ctx), undoing)
	defer cancel()
	if err := b.cancel(after, d); err != nil && !errors.Is(err, hotplug.ErrNoCopy) {
		return b.unverified(d, errors.Join(cause, err))
	}
	return &hotplug.RolledBackError{Target: b.Target, Operation: "copied", Err: cause}
}

// Copy returns how far the copy is. One that has ended, also by a switch, has the phase [hotplug.CopyEnded] and the error
// [ErrJobGone]; which volume the disk uses is in its Disk. The error is a [*hotplug.NotHeldError] if libvirt has no such disk.
func (b BlockCopy) Copy(ctx context.Context) (out *hotplug.Copy, err error) {
	err = b.With(ctx, func(ctx context.Context, d *Domain) error {
		out, err = b.copy(ctx, d)
		return err
	})
	return out, err
}

// Payload returns the path of the image that the disk uses.
func (b BlockCopy) Payload(ctx context.Context) (string, error) {
	c, err := b.Copy(ctx)
	if err != nil {
		return "", err
	}
	return c.Disk.Payload, nil
}

// copy is Copy in a domain.
func (b BlockCopy) copy(ctx context.Context, d *Domain) (*hotplug.Copy, error) {
	disk, err := d.ownDisk(ctx, b.Target)
	if err != nil {
		return nil, err
	}
	at := &hotplug.AttachedDisk{Target: b.Target, Payload: pathOf(disk.Source), ReadOnly: disk.ReadOnly != nil, Serial: disk.Serial}
	if disk.Alias != nil {
		at.Device = disk.Alias.Name
	}
	c := &hotplug.Copy{Disk: at, Phase: hotplug.CopyEnded, Err: ErrJobGone}
	if disk.Mirror == nil {
		return c, nil
	}
	if path := pathOf(disk.Mirror.Source); path != b.To {
		return nil, &hotplug.PreflightError{Target: b.Target, Cause: hotplug.ErrNoCopy, Reason: fmt.Sprintf("libvirt has another job on it, which copies it to %s", path)}
	}
	at.Copy = &hotplug.AttachedDisk{Target: b.Target, Payload: b.To}
	info, err := call(ctx, d, func() (out jobInfo, err error) {
		out.found, _, out.speed, out.done, out.total, err = d.libvirt.DomainGetBlockJobInfo(d.handle, b.Target, uint32(libvirt.DomainBlockJobInfoBandwidthBytes))
		return out, err
	})
	if err != nil {
		return nil, d.failed(err)
	}
	if info.found == 0 {
		return c, nil // it has ended meanwhile
	}
	c.Phase, c.Err, c.Done, c.Total, c.Speed = hotplug.CopyRunning, nil, int64(info.done), int64(info.total), int64(info.speed)
	if disk.Mirror.Ready == "yes" { // with synchronous writes it stays in step
		c.Phase = hotplug.CopyInStep
	}
	return c, nil
}

// jobInfo is the answer of virDomainGetBlockJobInfo.
type jobInfo struct {
	found              int32
	speed, done, total uint64
}

// Converge does nothing: the guest's writes go to both volumes from the beginning.
func (b BlockCopy) Converge(context.Context) error { return nil }

// Resume does nothing: libvirt ends a copy that has no room, and pauses none.
func (b BlockCopy) Resume(context.Context) error { return nil }

// End does nothing: libvirt removes what a job has left itself.
func (b BlockCopy) End(context.Context) error { return nil }

// SetSpeed bounds a copy that runs, in bytes a second; 0 is no limit. The errors are those of Copy, and a
// [*hotplug.PreflightError] with [hotplug.ErrNoCopy].
func (b BlockCopy) SetSpeed(ctx context.Context, speed int64) error {
	return b.With(ctx, func(ctx context.Context, d *Domain) error {
		if _, err := b.running(ctx, d); err != nil {
			return err
		}
		return d.setBlockCopySpeed(ctx, b.Target, speed)
	})
}

func (d *Domain) setBlockCopySpeed(ctx context.Context, target string, speed int64) error {
	return d.try(ctx, func() error {
		return d.libvirt.DomainBlockJobSetSpeed(d.handle, target, uint64(max(speed, 0)), libvirt.DomainBlockJobSpeedBandwidthBytes)
	})
}

// running is copy for one that runs.
func (b BlockCopy) running(ctx context.Context, d *Domain) (*hotplug.Copy, error) {
	c, err := b.copy(ctx, d)
	if err == nil && c.Phase == hotplug.CopyEnded {
		return nil, &hotplug.PreflightError{Target: b.Target, Cause: hotplug.ErrNoCopy, Reason: "it is not being copied to another volume"}
	}
	return c, err
}

// Switch makes the disk use the new volume of a copy that is in step. libvirt then changes its definition of the domain as well, if
// that has the old volume. Which volume the disk uses is queried afterwards: no answer decides.
//
// The errors are those of [hotplug.VM.SwitchCopy]. A [*hotplug.LeftBehindError] also names a definition that still has the old
// volume: the disk uses the new one.
func (b BlockCopy) Switch(ctx context.Context, s hotplug.Switch) (out *hotplug.Switched, err error) {
	err = b.With(ctx, func(ctx context.Context, d *Domain) error {
		out, err = b.pivot(ctx, d, s)
		return err
	})
	return out, err
}

// pivot is Switch in a domain.
func (b BlockCopy) pivot(ctx context.Context, d *Domain, s hotplug.Switch) (*hotplug.Switched, error) {
	c, err := b.running(ctx, d)
	if err != nil {
		return nil, err
	}
	if c.Phase != hotplug.CopyInStep {
		reason := fmt.Sprintf("its copy is %s (%d of %d bytes): wait until it is in step", c.Phase, c.Done, c.Total)
		return nil, &hotplug.PreflightError{Target: b.Target, Cause: hotplug.ErrNotInStep, Reason: reason}
	}
	was, err := d.definedSource(ctx, b.Target)
	if err != nil {
		return nil, err
	}
	if s.Before != nil {
		if err := s.Before(ctx); err != nil {
			return nil, b.undoSwitch(ctx, s, err)
		}
	}
	begin := time.Now()
	asked, cancel := ending.After(context.WithoutCancel(ctx), answering)
	defer cancel()
	cause := d.try(asked, func() error {
		return d.libvirt.DomainBlockJobAbort(d.handle, b.Target, libvirt.DomainBlockJobAbortPivot)
	})
	took := time.Since(begin)
	after, cancel := ending.After(context.WithoutCancel(ctx), undoing)
	defer cancel()
	disk, err := d.settled(after, b.Target)
	switch {
	case err != nil:
		return nil, b.unverified(d, errors.Join(cause, err))
	case pathOf(disk.Source) == b.To:
	case unanswered(cause): // libvirt may still do it
		return nil, b.unverified(d, cause)
	default:
		return nil, b.undoSwitch(ctx, s, cause)
	}
	if err := d.checkDefinition(after, b.Target, was, c.Disk.Payload); err != nil {
		return nil, &hotplug.LeftBehindError{Target: b.Target, Left: []string{"the old volume in the definition of domain " + d.name}, Remedy: "replace it there (virsh edit) before the next start", Err: err}
	}
	c.Disk.Payload, c.Disk.Copy = b.To, nil
	return &hotplug.Switched{AttachedDisk: *c.Disk, Took: took}, nil
}

// undoSwitch undoes what the caller has done for a switch that has not happened.
func (b BlockCopy) undoSwitch(ctx context.Context, s hotplug.Switch, cause error) error {
	const operation = "switched to the new volume"
	if cause == nil {
		cause = errors.New("libvirt has left the disk on the old volume")
	}
	if s.Undo == nil {
		return &hotplug.RolledBackError{Target: b.Target, Operation: operation, Err: cause}
	}
	after, cancel := ending.After(context.WithoutCancel(ctx), undoing)
	defer cancel()
	if err := s.Undo(after); err != nil {
		return &hotplug.LeftBehindError{Target: b.Target, Left: []string{"the references to the new volume, which the disk does not use"}, Err: errors.Join(cause, err)}
	}
	return &hotplug.RolledBackError{Target: b.Target, Operation: operation, Err: cause}
}

// Cancel ends a copy, whatever its phase. The disk stays on the old volume. The errors are those of SetSpeed, and a
// [*hotplug.PreflightError] with [hotplug.ErrSwitched] if the disk uses the new volume already.
func (b BlockCopy) Cancel(ctx context.Context) error { return b.With(ctx, b.cancel) }

// cancel is Cancel in a domain.
func (b BlockCopy) cancel(ctx context.Context, d *Domain) error {
	c, err := b.copy(ctx, d)
	if err != nil {
		return err
	}
	switched := &hotplug.PreflightError{Target: b.Target, Cause: hotplug.ErrSwitched, Reason: "it uses the new volume already"}
	switch {
	case c.Phase == hotplug.CopyEnded && c.Disk.Payload == b.To:
		return switched
	case c.Phase == hotplug.CopyEnded:
		_, err := b.running(ctx, d)
		return err
	}
	cause := d.try(ctx, func() error { return d.libvirt.DomainBlockJobAbort(d.handle, b.Target, 0) })
	disk, err := d.settled(ctx, b.Target)
	switch {
	case err != nil:
		return errors.Join(cause, err)
	case disk.Mirror != nil:
		return fmt.Errorf("disk %s: cancel its copy: %w", b.Target, errors.Join(errors.New("libvirt's job goes on"), cause))
	case pathOf(disk.Source) == b.To:
		return switched
	}
	return nil
}

// settled returns a disk once no job of it is about to end.
func (d *Domain) settled(ctx context.Context, target string) (*libvirtxml.DomainDisk, error) {
	const wait = 20 * time.Millisecond
	for {
		disk, err := d.ownDisk(ctx, target)
		if err != nil {
			return nil, err
		}
		if disk.Mirror == nil || disk.Mirror.Ready == "yes" || disk.Mirror.Ready == "" {
			return disk, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// try is call for functions of libvirt without a result.
func (d *Domain) try(ctx context.Context, f func() error) error {
	_, err := call(ctx, d, func() (struct{}, error) { return struct{}{}, f() })
	if err != nil {
		return d.failed(err)
	}
	return nil
}
