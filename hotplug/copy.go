package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// CopyOptions are the options of a copy.
type CopyOptions struct {
	Spec
	// Speed bounds the copy, in bytes a second; 0 is no limit.
	Speed int64
	// Kept is kept on this host for as long as the new volume is attached, see [AttachedDisk].
	Kept string
	// Renamed opens the new volume so that its files can be renamed while the VM has them, see [VM.NoteRenamed].
	Renamed bool
	// Opened is called when the VM has the new volume open, before the first byte is copied; nil for nothing. It marks the
	// volume as incomplete. An error ends the copy.
	Opened func(ctx context.Context) error
}

// CopyPhase is the phase of a copy.
type CopyPhase string

// The phases of a copy.
const (
	// CopyRunning: QEMU copies the disk. The old volume is complete, the new one is not.
	CopyRunning CopyPhase = "copying"
	// CopyInStep: both volumes have the same content, and QEMU completes a write of the guest when both have it.
	CopyInStep CopyPhase = "in step"
	// CopyPaused: QEMU has paused the copy, because the new volume has no room; see [VM.ResumeCopy].
	CopyPaused CopyPhase = "paused"
	// CopyEnded: no job of QEMU works on the copy any more. Only the volume that the device uses is complete for certain.
	CopyEnded CopyPhase = "ended"
)

// Copy is a disk that is, or was, copied to another volume. The disk has its parts, and those of the other volume as its
// Copy, see [AttachedDisk].
type Copy struct {
	Disk  *AttachedDisk
	Phase CopyPhase
	// Done and Total are in bytes. Total grows while the guest writes.
	Done, Total int64
	// Speed is the limit in bytes a second, 0 for none.
	Speed int64
	// Err is why QEMU has ended or paused the copy, nil for no error. A canceled copy has none.
	Err error
	// ready is true if the job can be completed.
	ready bool
	// synced is true if the volumes have had the same content when QEMU was queried, and writes go to both.
	synced bool
	// job is true if QEMU has the job, even if it has ended.
	job bool
}

// StartCopy begins to copy the disk with that target to another volume, disk, while the VM uses it. It opens the volume in
// the VM beside the present one, as the other instance of the disk (see [blockgraph.OtherInstance]), and has QEMU copy
// (blockdev-mirror of QEMU's QMP reference). The volume is on this host, and has exactly the size of the disk in the guest.
// The copy goes on when the program ends: see [VM.Copies].
//
// Before the first change a [*PreflightError] has one of the causes of an attach, or [ErrCopying], [ErrUncopyable],
// [ErrSize], [ErrDiskInUse], [ErrImageInUse] or [ErrReadOnlyImage]. The other errors are those of [VM.Attach], and
// [*NotHeldError].
func (vm *VM) StartCopy(ctx context.Context, target string, disk *blockgraph.Disk, store secrets.Store, options CopyOptions) error {
	if err := CheckTarget(target); err != nil {
		return err
	}
	if err := checkNew(target, disk); err != nil {
		return err
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	state, from, err := vm.held(ctx, target)
	if err != nil {
		return err
	}
	if state, from, err = vm.withoutCopy(ctx, state, from); err != nil {
		return err
	}
	what, err := vm.checkCopyable(ctx, state, from)
	if err != nil {
		return err
	}
	// The parts of an instance have its name, on the host as well.
	named := *disk
	named.Target = blockgraph.OtherInstance(from.Instance)
	images := &remoteimage.Opener{Host: vm.host, Store: store, Target: named.Target}
	defer images.Close(ctx)
	c := &copying{attach: attach{VM: vm, disk: &named, store: store, options: AttachOptions{Spec: options.Spec}, images: images}, target: target, from: what, options: options}
	return ofDisk(target, c.start(ctx, state, disk))
}

// ofDisk has an error about an instance name the disk, as the caller knows it.
func ofDisk(target string, err error) error {
	if refused := (*PreflightError)(nil); errors.As(err, &refused) {
		refused.Target = target
	}
	if secret := (*SecretError)(nil); errors.As(err, &secret) {
		secret.Target = target
	}
	if back := (*RolledBackError)(nil); errors.As(err, &back) {
		back.Target = target
	}
	if left := (*LeftBehindError)(nil); errors.As(err, &left) {
		left.Target = target
	}
	return err
}

// checkNew refuses a disk that is nothing to copy to.
func checkNew(target string, disk *blockgraph.Disk) error {
	refuse := func(cause error, reason string) error {
		return &PreflightError{Target: target, Cause: cause, Reason: reason}
	}
	switch {
	case disk.Empty || disk.Image.Source.Kind == blockgraph.SourceVHostUser:
		return refuse(ErrUncopyable, "the new disk has no volume that QEMU could write to")
	case disk.Transient:
		return refuse(ErrUncopyable, "the new disk is transient: what is written to it would be lost when it is detached")
	case disk.ReadOnly:
		return refuse(ErrReadOnlyImage, "the new disk is read-only, and a copy writes to it")
	}
	return nil
}

// withoutCopy removes the parts of an earlier copy. A copy that runs is refused.
func (vm *VM) withoutCopy(ctx context.Context, state *State, disk *AttachedDisk) (*State, *AttachedDisk, error) {
	if disk.Copy == nil {
		if j, err := readJob(ctx, vm.conn, disk.Target); err != nil || newCopy(disk, j).Phase != CopyEnded || j == nil {
			return state, disk, err // checkUnused refuses a job that runs
		}
		err := vm.conn.Repeat(ctx, jobCommand("job-dismiss", disk.Target), qmp.ErrJobNotFound)
		return state, disk, err
	}
	c, err := vm.copyOf(ctx, disk)
	if err != nil {
		return nil, nil, err
	}
	if c.Phase != CopyEnded {
		return nil, nil, &PreflightError{Target: disk.Target, Cause: ErrCopying, Reason: "it is being copied to another volume: wait until that has ended, or cancel it"}
	}
	vm.host.Entry(disk.Target).Warnf("removing what an earlier copy has left: %v", disk.Copy.Left())
	if err := vm.endCopy(ctx, c); err != nil {
		return nil, nil, err
	}
	if state, err = vm.State(ctx); err != nil {
		return nil, nil, err
	}
	if disk = state.Disk(disk.Target); disk == nil {
		return nil, nil, errors.New("the disk has gone while an earlier copy was removed")
	}
	return state, disk, nil
}

// original is what is copied of a disk.
type original struct {
	top *Node // the device uses it
	// replaced is the node in whose place the new volume comes, if nodes over the images stay above it; "" for top.
	replaced string
	// converges is true if the copy-mode of the job can be changed.
	converges bool
}

// checkCopyable refuses a disk that cannot be copied while the VM has it, and returns what is copied.
func (vm *VM) checkCopyable(ctx context.Context, state *State, disk *AttachedDisk) (*original, error) {
	refuse := func(cause error, format string, args ...any) (*original, error) {
		return nil, &PreflightError{Target: disk.Target, Cause: cause, Reason: fmt.Sprintf(format, args...)}
	}
	top := state.Top(disk)
	switch {
	case !vm.host.Local:
		return refuse(ErrRemoteVM, "the VM runs on another machine, where the new volume has to be: run luksplug there")
	case top == nil:
		return refuse(ErrUncopyable, "no device in the VM uses a block node of it: run luksplug repair if an interrupted run has left it")
	case top.ReadOnly:
		return refuse(ErrReadOnlyImage, "it is read-only in the VM: detach it first")
	}
	copiesOnRead := slices.Contains(disk.Nodes, blockgraph.Name(disk.Target, blockgraph.RoleCopyOnRead))
	for _, name := range disk.Nodes {
		_, role, _ := blockgraph.ParseName(name)
		switch _, layer := role.Base(); {
		case role == blockgraph.RoleOverlayFormat:
			return refuse(ErrUncopyable, "it is transient: its overlay is lost when it is detached, which a copy would keep")
		case layer > 0 && copiesOnRead:
			return refuse(ErrUncopyable, "it copies what it reads from the images below its own (copy_on_read='on'), so that a copy would fill the old volume: detach it, and attach it without")
		}
	}
	if err := vm.checkUnused(ctx, disk, "begin"); err != nil {
		return nil, err
	}
	switch with, err := vm.sharedWith(ctx, disk); {
	case err != nil:
		return nil, err
	case with != "":
		return refuse(ErrImageInUse, "%s: detach it there first, since only this VM would get the new volume", with)
	}
	switch migrating, err := vm.migrating(ctx); {
	case err != nil:
		return nil, err
	case migrating:
		return nil, fmt.Errorf("disk %s: it cannot be copied: %w", disk.Target, ErrMigrating)
	}
	below, err := inventory.Below(ctx, vm.conn, disk)
	var refused *qmp.Error
	switch {
	case errors.As(err, &refused):
		return refuse(ErrUncopyable, "it has nodes over its images (<throttlefilters>, or copy_on_read='on'), and this QEMU does not report what is below them (%v): detach it, and attach it without", refused)
	case err != nil:
		return nil, err
	}
	converges, err := vm.converges(ctx)
	return &original{top, below[top.Name], converges}, err
}

// copying is one run of [VM.StartCopy].
type copying struct {
	attach
	target  string
	from    *original
	options CopyOptions
}

// start opens the new volume and begins the copy. disk is the new one with its target.
func (c *copying) start(ctx context.Context, state *State, disk *blockgraph.Disk) error {
	choice, err := c.ChooseUnlock(ctx, c.disk, state, UnlockAuto)
	if err != nil {
		return err
	}
	if choice.FDSet == 0 && choice.Dir == "" { // QEMU itself unlocks the volume
		if choice.Unlock, err = unlock.Passing(ctx, c.conn, c.host, c.disk.Target, state, choice.Unlock); err != nil {
			return err
		}
	}
	build := blockgraph.BuildCopy
	if c.options.Renamed {
		build = blockgraph.BuildRenamedCopy
	}
	graph, err := build(disk, c.disk.Target, choice.Unlock)
	if err != nil {
		return err
	}
	wanted := &check.Candidate{
		Host: c.host, VM: c.check, State: state, Disk: c.disk, Plan: graph.Plan(), Unlock: choice.Unlock,
		Spec: c.options.Spec, Images: c.images, Store: c.store, Searches: &c.searches,
	}
	found, err := check.Run(ctx, wanted, check.Copy())
	if err != nil {
		return err
	}
	values, err := unlock.Resolve(ctx, graph, c.store, unlock.ToQEMU(ctx, c.host), unlock.Unlocker{Open: c.images.Open})
	defer values.Wipe()
	if err != nil {
		return err
	}
	if err := values.Encrypt(ctx, c.conn, c.host, graph, state); err != nil {
		return err
	}
	c.warn(&candidate{Candidate: wanted, Findings: found, choice: choice})
	note, err := c.noteOf(ctx, choice)
	if err != nil {
		return err
	}
	run := c.run(wanted.Plan, values)
	run.Operation = "copied to another volume"
	run.Changes = apply.Preparation{Disk: c.disk, Graph: graph, Values: values, Unlock: choice.Unlock, Note: &note, Grants: found.Grants, OnDaemon: c.opts.OnDaemon}.Changes(c.host)
	err = run.DoThen(ctx, func(ctx context.Context) error { return c.mirror(ctx, graph) })
	if step := (*apply.StepError)(nil); errors.As(err, &step) && step.Step.Guard != nil {
		return fmt.Errorf("%w; without this node the VM could be migrated or saved during the copy, which ends it", err)
	}
	return err
}

// noteOf returns the note of the new volume.
func (c *copying) noteOf(ctx context.Context, choice Choice) (rundir.Note, error) {
	uuid := ""
	if h := unlock.HeaderOf(ctx, c.host, c.disk); h != nil {
		uuid = h.UUID
	}
	n, err := c.host.Note(ctx, c.disk, choice.Method, uuid)
	n.Kept = c.options.Kept
	return n, err
}

// mirror checks the size of the new volume and starts the job. A job whose start is of unknown outcome is found by its id.
func (c *copying) mirror(ctx context.Context, graph *blockgraph.Graph) error {
	state, err := inventory.Nodes(ctx, c.conn)
	if err != nil {
		return err
	}
	to := state.Node(graph.Top().Name)
	if to == nil {
		return fmt.Errorf("QEMU has no node %s, which it reported as added", graph.Top().Name)
	}
	if have, want := to.Image.VirtualSize, c.from.top.Image.VirtualSize; have != want {
		return &PreflightError{Target: c.target, Cause: ErrSize, Reason: fmt.Sprintf("the new volume has %d bytes in QEMU, and the disk %d: a copy needs the same size", have, want)}
	}
	if c.options.Opened != nil {
		if err := c.options.Opened(ctx); err != nil {
			return err
		}
	}
	_, err = c.conn.Execute(ctx, mirror(c.target, c.from, to.Name, c.options.Speed))
	if unknown := (*qmp.UnknownOutcomeError)(nil); !errors.As(err, &unknown) {
		return err
	}
	after, cancel := c.host.Recovering(ctx)
	defer cancel()
	if e := c.conn.Reconnect(after); e != nil {
		return errors.Join(err, e)
	}
	switch j, e := readJob(after, c.conn, c.target); {
	case e != nil:
		return errors.Join(err, e)
	case j == nil:
		return err
	}
	return nil
}
