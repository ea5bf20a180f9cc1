package reencrypt

import (
	"context"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
)

// SizeOf returns the size that a guest sees, in bytes, of the disk of a document that no VM has.
func SizeOf(ctx context.Context, document []byte) (int64, error) {
	disk, err := diskxml.ParseDisk(document)
	if err != nil {
		return 0, err
	}
	if !disk.Image.Source.Local() {
		return 0, fmt.Errorf("disk %s: %w: its image is %s: only files and block devices of this host can be re-encrypted", disk.Target, ErrRequest, disk.Image.Source)
	}
	path, header := disk.Image.Source.Path, ""
	if h := disk.Header(); h != nil {
		header = h.Source.Path
	}
	if disk.Image.Encryption != nil {
		info, err := volume.Inspect(ctx, path, header, nil)
		if err != nil {
			return 0, err
		}
		return info.Size, nil
	}
	info, err := image.Probe(path)
	switch {
	case err != nil:
		return 0, err
	case info.Qcow2 != nil:
		return info.Qcow2.VirtualSize, nil
	}
	return info.Size, nil
}

// Idle re-encrypts a disk that no VM has: it makes the new volume, copies to it, moves the references, and renames the old volume. It
// returns when that is done; report is called meanwhile, nil for nothing. The copy ends with the program, and with ctx. After a failure
// nothing is left of it, or the error names it.
//
// The errors are those of [volume.Create], of [hotplug.CopyIdle] and of the journal. They wrap a [*volume.LeftError] if
// something of the new volume could not be removed. Once the copy is complete, [Setting.Resume] goes on after a failure.
func (s Setting) Idle(ctx context.Context, p *Prepared, report func(hotplug.IdleCopy)) (Entry, error) {
	e := p.Entry
	lock, err := s.Journal.Lock(ctx, e.ID, nil)
	if err != nil {
		return e, err
	}
	defer lock.Release()
	if err := s.copyIdle(ctx, p, &e, report); err != nil {
		return e, s.undo(ctx, e, err)
	}
	// From here on both volumes are complete, and the steps are few: they are not interrupted.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoing)
	defer cancel()
	refs, err := s.refer(after, e)
	if err != nil {
		return e, err
	}
	if err := s.commit(after, e, refs); err != nil {
		return e, err
	}
	return s.switched(after, e)
}

// copyIdle makes the new volume, and copies to it.
func (s Setting) copyIdle(ctx context.Context, p *Prepared, e *Entry, report func(hotplug.IdleCopy)) error {
	from, err := diskxml.ParseDisk([]byte(e.Source.XML))
	if err != nil {
		return err
	}
	to, err := s.makeVolume(ctx, p, e)
	if err != nil {
		return err
	}
	return hotplug.CopyIdle(ctx, from, to, s.Store, hotplug.IdleCopyOptions{
		Log: s.Log, From: p.request.Spec, To: p.request.Spec, Speed: e.Speed, Report: report,
		Opened: func(ctx context.Context) (err error) {
			if err := e.Target.mark(ctx, e.ID); err != nil {
				return err
			}
			*e, err = s.Journal.Update(e.ID, PhaseCopying)
			return err
		},
	})
}
