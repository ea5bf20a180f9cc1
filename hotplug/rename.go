package hotplug

import (
	"context"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// RenamedFile is a file of a disk that was renamed while the VM has it open.
type RenamedFile = rundir.RenamedFile

// Renaming tells [VM.NoteRenamed] which files of a disk were renamed.
type Renaming struct {
	// Disk is the disk with its present paths.
	Disk *blockgraph.Disk
	// Files are those that were renamed.
	Files []RenamedFile
	// Kept is kept on this host from now on, see [AttachedDisk].
	Kept string
}

// NoteRenamed notes on this host that files of the disk with that target were renamed while the VM has them open, after a copy with
// [CopyOptions].Renamed. QEMU reports the old names for ever. From now on List and all checks have the present ones: an attach of
// Disk finds it attached. It may be repeated.
//
// The errors are a [*NotHeldError], a [*PreflightError] with [ErrImageUnusable] for a disk that uses none of the files, and those of
// the file system.
func (vm *VM) NoteRenamed(ctx context.Context, target string, r Renaming) error {
	lock, err := vm.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	_, disk, err := vm.held(ctx, target)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(r.Files, func(f RenamedFile) bool { return disk.Payload == f.Opened || disk.Payload == f.Path }) {
		return &PreflightError{Target: target, Cause: ErrImageUnusable, Reason: fmt.Sprintf("the VM uses %s, which was not renamed", disk.Payload)}
	}
	named := *r.Disk
	named.Target = disk.Instance
	note, err := vm.host.Note(ctx, &named, disk.Unlock, disk.UUID)
	if err != nil {
		return err
	}
	note.Kept, note.Renamed = r.Kept, r.Files
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return err
	}
	return dir.WriteNote(note)
}
