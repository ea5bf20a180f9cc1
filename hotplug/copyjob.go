package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// copyJob returns the id of the job that copies a disk. By its name a later run, also of another user, finds it.
func copyJob(target string) string { return blockgraph.Name(target, blockgraph.RoleCopy) }

// mirror returns the command that starts the job. QEMU completes it by itself when it is told to (auto-finalize), because the
// guest's requests wait from then on until the job has ended. It keeps the result (auto-dismiss). A new volume without room
// pauses the job, and any other error of it or of the disk ends it: the disk stays on its volume. QEMU encrypts in its main loop,
// a buffer at a time: with its own 16 MiB the monitor and the guest would wait for up to a second.
//
// Where QEMU cannot be told later to have writes go to both volumes (before 8.2), it does from the start.
func mirror(target string, from *original, to string, speed int64) qmp.Command {
	mode := "write-blocking"
	if from.converges {
		mode = "background"
	}
	arguments := qmp.Object{
		{Name: "job-id", Value: copyJob(target)}, {Name: "device", Value: from.top.Name}, {Name: "target", Value: to},
		{Name: "sync", Value: "full"}, {Name: "speed", Value: speed}, {Name: "copy-mode", Value: mode},
		{Name: "on-source-error", Value: "report"}, {Name: "on-target-error", Value: "enospc"},
		{Name: "auto-dismiss", Value: false}, {Name: "buf-size", Value: copyBuffer},
	}
	if from.replaced != "" {
		arguments = append(arguments, qmp.Member{Name: "replaces", Value: from.replaced})
	}
	return qmp.Command{Execute: "blockdev-mirror", Arguments: arguments}
}

// copyBuffer is how much QEMU reads and writes at once, in bytes.
const copyBuffer = 1 << 20

// job is a job of QEMU: JobInfo of qapi/job.json, and BlockJobInfo of qapi/block-core.json, which lists no job that has ended.
type job struct {
	ID     string
	Status string
	Done   int64  `json:"current-progress"`
	Total  int64  `json:"total-progress"`
	Err    string `json:"error"`

	block *blockJob
}

type blockJob struct {
	ID       string `json:"device"`
	Speed    int64
	Ready    bool
	IOStatus string `json:"io-status"`
	// Synced is not reported by a QEMU before 8.2, whose job writes to both from the start.
	Synced *bool `json:"actively-synced"`
}

// readJob queries the job of a disk; nil if there is none.
func readJob(ctx context.Context, q monitor.Querier, target string) (*job, error) {
	commands := []qmp.Command{{Execute: "query-jobs"}, {Execute: "query-block-jobs"}}
	values, err := q.Query(ctx, commands...)
	if err != nil {
		return nil, err
	}
	var jobs []job
	var blocks []blockJob
	for i, into := range []any{&jobs, &blocks} {
		if err := monitor.Decode(values[i], into, commands[i]); err != nil {
			return nil, err
		}
	}
	for _, j := range jobs {
		if j.ID != copyJob(target) {
			continue
		}
		for i := range blocks {
			if blocks[i].ID == j.ID {
				j.block = &blocks[i]
			}
		}
		return &j, nil
	}
	return nil, nil
}

// copyOf returns the copy of a disk that has parts of another volume.
func (vm *VM) copyOf(ctx context.Context, disk *AttachedDisk) (*Copy, error) {
	j, err := readJob(ctx, vm.conn, disk.Target)
	if err != nil {
		return nil, err
	}
	return newCopy(disk, j), nil
}

// errNoRoom is why QEMU pauses a copy.
var errNoRoom = errors.New("the new volume has no room left on its storage")

func newCopy(disk *AttachedDisk, j *job) *Copy {
	c := &Copy{Disk: disk, Phase: CopyEnded}
	if j == nil {
		return c
	}
	c.job, c.Done, c.Total = true, j.Done, j.Total
	if j.Err != "" {
		c.Err = errors.New(j.Err)
	}
	if j.block == nil || j.Status == "concluded" || j.Status == "null" {
		return c
	}
	c.Phase, c.Speed, c.ready = CopyRunning, j.block.Speed, j.block.Ready
	c.synced = c.ready && (j.block.Synced == nil || *j.block.Synced)
	switch {
	case j.block.IOStatus != "" && j.block.IOStatus != "ok":
		c.Phase, c.Err = CopyPaused, errNoRoom
	case c.synced:
		c.Phase = CopyInStep
	}
	return c
}

// Copies returns the disks that are or were copied to another volume, sorted by target, as long as the VM has that volume open. It
// changes nothing, and takes no lock.
func (vm *VM) Copies(ctx context.Context) ([]*Copy, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	var out []*Copy
	for _, d := range state.Disks() {
		if d.Copy == nil {
			continue
		}
		c, err := vm.copyOf(ctx, d)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// Copy returns the copy of the disk with that target. The error is a [*NotHeldError], or a [*PreflightError] with [ErrNoCopy] if
// the disk has no other volume. It changes nothing, and takes no lock.
func (vm *VM) Copy(ctx context.Context, target string) (*Copy, error) {
	_, disk, err := vm.held(ctx, target)
	if err != nil {
		return nil, err
	}
	if disk.Copy == nil {
		return nil, &PreflightError{Target: target, Cause: ErrNoCopy, Reason: "it is not being copied to another volume"}
	}
	return vm.copyOf(ctx, disk)
}

// running is Copy for one that runs, with the VM's lock taken.
func (vm *VM) running(ctx context.Context, target string) (*Copy, error) {
	c, err := vm.Copy(ctx, target)
	if err == nil && c.Phase == CopyEnded {
		reason := "the copy to another volume has ended"
		if c.Err != nil {
			reason += fmt.Sprintf(" (%v)", c.Err)
		}
		return nil, &PreflightError{Target: target, Cause: ErrNoCopy, Reason: reason}
	}
	return c, err
}

// command sends a command about a copy that runs. All of them may be repeated.
func (vm *VM) command(ctx context.Context, target string, cmd qmp.Command) error {
	lock, err := vm.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, err := vm.running(ctx, target); err != nil {
		return err
	}
	if _, err = vm.conn.Query(ctx, cmd); err != nil {
		return fmt.Errorf("disk %s: %s of its copy: %w", target, cmd.Execute, err)
	}
	return nil
}

// SetCopySpeed bounds a copy that runs, in bytes a second; 0 is no limit. The errors are those of [VM.Copy].
func (vm *VM) SetCopySpeed(ctx context.Context, target string, speed int64) error {
	return vm.command(ctx, target, qmp.Command{Execute: "block-job-set-speed", Arguments: qmp.Object{{Name: "device", Value: copyJob(target)}, {Name: "speed", Value: speed}}})
}

// ResumeCopy resumes a copy that QEMU has paused, once the new volume has room. The errors are those of [VM.Copy].
func (vm *VM) ResumeCopy(ctx context.Context, target string) error {
	return vm.command(ctx, target, qmp.Command{Execute: "block-job-resume", Arguments: qmp.Object{{Name: "device", Value: copyJob(target)}}})
}

// ConvergeCopy has each write of the guest go to both volumes (copy-mode write-blocking), so that the copy comes into step however
// much the guest writes. It slows the guest's writes down to the speed of the slower volume. It may be repeated. A QEMU before 8.2
// does that from the start. The errors are those of [VM.Copy].
func (vm *VM) ConvergeCopy(ctx context.Context, target string) error {
	if converges, err := vm.converges(ctx); err != nil || !converges {
		return err
	}
	return vm.command(ctx, target, qmp.Command{Execute: changeJob, Arguments: qmp.Object{
		{Name: "id", Value: copyJob(target)}, {Name: "type", Value: "mirror"}, {Name: "copy-mode", Value: "write-blocking"}}})
}

// changeJob is the command that changes the copy-mode of a job, since QEMU 8.2.
const changeJob = "block-job-change"

// converges reports whether the VM's QEMU changes the copy-mode of a job.
func (vm *VM) converges(ctx context.Context) (bool, error) {
	schema, err := vm.conn.Client().Schema(ctx)
	if err != nil {
		return false, fmt.Errorf("query QEMU for its schema: %w", err)
	}
	return schema.Supports(changeJob, ""), nil
}

// Switch are the calls by which [VM.SwitchCopy] tells its caller what happens.
type Switch struct {
	// Before is called when the volumes are in step, before the device uses the new one. It makes the new volume the one that
	// is found after a crash: it removes its mark, and moves what refers to the volume. From then on until the end a crash
	// leaves two equal volumes, or the new one. nil for nothing.
	Before func(ctx context.Context) error
	// Undo undoes Before, also one that failed half-way, because the device stays on the old volume. ctx has not ended.
	Undo func(ctx context.Context) error
}

// Switched is the result of [VM.SwitchCopy].
type Switched struct {
	// AttachedDisk is what the VM has now.
	AttachedDisk
	// Old are the parts of the old volume that were removed.
	Old []string
	// Took is the time from the command to the end of the job, in which the guest's requests may have waited.
	Took time.Duration
}

// SwitchCopy makes the device use the new volume of a copy that is in step, and removes the parts of the old one from the VM. What
// the VM has is queried afterwards: no answer and no event decides.
//
// The errors are those of [VM.Copy], a [*PreflightError] with [ErrNotInStep], and that of s.Before: nothing was changed then.
// After a [*RolledBackError] the disk is on the old volume, and the copy goes on or, if that was the only way to be sure, has ended. A [*LeftBehindError] names what could not be
// undone, or the parts of the old volume that stay; if Unverified is true, the VM could not be queried, and [VM.Copy] tells
// which volume it uses once that is possible.
func (vm *VM) SwitchCopy(ctx context.Context, target string, s Switch) (*Switched, error) {
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	c, err := vm.running(ctx, target)
	if err != nil {
		return nil, err
	}
	if c.Phase != CopyInStep {
		return nil, notInStep(c)
	}
	from := c.Disk.Instance
	if s.Before != nil {
		if err := s.Before(ctx); err != nil {
			return nil, vm.undoSwitch(ctx, target, s, err)
		}
	}
	begin := time.Now()
	cause := vm.complete(ctx, c.Disk)
	took := time.Since(begin)
	// The guest may already use the new volume, also if the caller has given up.
	after, cancel := vm.host.Recovering(ctx)
	defer cancel()
	switch c, err = vm.Copy(after, target); {
	case err != nil:
		return nil, &LeftBehindError{Target: target, Left: []string{"a copy that may have ended"}, Unverified: true, Err: errors.Join(cause, err)}
	case c.Disk.Instance == from && c.Phase != CopyEnded && errors.Is(cause, errUnsettled):
		return nil, &LeftBehindError{Target: target, Left: []string{"a copy that may still be completed"}, Unverified: true, Err: cause}
	case c.Disk.Instance == from:
		return nil, vm.undoSwitch(ctx, target, s, errors.Join(cause, c.Err))
	}
	old := c.Disk.Copy.Left()
	if err := vm.endCopy(after, c); err != nil {
		return nil, err
	}
	c.Disk.Copy = nil
	return &Switched{AttachedDisk: *c.Disk, Old: old, Took: took}, nil
}

// notInStep refuses a switch.
func notInStep(c *Copy) error {
	reason := fmt.Sprintf("its copy is %s (%d of %d bytes): wait until it is in step", c.Phase, c.Done, c.Total)
	return &PreflightError{Target: c.Disk.Target, Cause: ErrNotInStep, Reason: reason, Err: c.Err}
}

// undoSwitch undoes what the caller has done for a switch that has not happened.
func (vm *VM) undoSwitch(ctx context.Context, target string, s Switch, cause error) error {
	if cause == nil {
		cause = errors.New("QEMU has left the device on the old volume")
	}
	if s.Undo == nil {
		return &RolledBackError{Target: target, Operation: "switched to the new volume", Err: cause}
	}
	after, cancel := vm.host.Recovering(ctx)
	defer cancel()
	if err := s.Undo(after); err != nil {
		return &LeftBehindError{Target: target, Left: []string{"the references to the new volume, which the disk does not use"}, Err: errors.Join(cause, err)}
	}
	return &RolledBackError{Target: target, Operation: "switched to the new volume", Err: cause}
}

// complete has QEMU complete the job, and waits until it has ended or cannot be completed. The error need not mean that it has
// not been completed, but the job completes no more later, except after errUnsettled.
func (vm *VM) complete(ctx context.Context, disk *AttachedDisk) error {
	target := disk.Target
	j, err := readJob(ctx, vm.conn, target)
	if err != nil {
		return err
	}
	if c := newCopy(&AttachedDisk{Target: target}, j); c.Phase != CopyInStep {
		return notInStep(c)
	}
	_, err = vm.conn.Execute(ctx, jobCommand("job-complete", target))
	if err == nil {
		err = vm.waitForEnd(ctx, target)
	} else if unknown := (*qmp.UnknownOutcomeError)(nil); !errors.As(err, &unknown) && !monitor.Lost(err) {
		return err
	}
	if err == nil {
		return nil
	}
	after, cancel := vm.host.Recovering(ctx)
	defer cancel()
	if e := vm.settle(after, disk); e != nil {
		return fmt.Errorf("%w: %w", errUnsettled, errors.Join(err, e))
	}
	return err
}

// errUnsettled reports that the job may complete at any time.
var errUnsettled = errors.New("it is not known whether QEMU was told to complete the copy")

// settleWait bounds the wait for the end of a job that may have been told to complete.
const settleWait = 5 * time.Second

// settle ends a job of which it is not known whether QEMU was told to complete it: QEMU does not report that, and the job would
// complete after the caller was told that the disk stays on its volume. It is told again, but not a second time to replace a
// node below filters: QEMU aborts then, if the job has not ended (7.2, 10.0; not 11.1). A job that does not end is canceled.
func (vm *VM) settle(ctx context.Context, disk *AttachedDisk) error {
	if !slices.ContainsFunc(disk.Nodes, aboveImages) {
		var refused *qmp.Error // because the job has ended
		if _, err := vm.conn.Query(ctx, jobCommand("job-complete", disk.Target)); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if err := vm.waitForEnd(waiting, disk.Target); err == nil || waiting.Err() == nil {
		return err
	}
	return vm.cancelJob(ctx, disk.Target)
}

// aboveImages reports whether a node is a filter over a disk's images.
func aboveImages(name string) bool {
	_, role, ours := blockgraph.ParseName(name)
	return ours && role.AboveImages()
}

// cancelJob cancels the job of a copy, and waits until it has ended.
func (vm *VM) cancelJob(ctx context.Context, target string) error {
	var refused *qmp.Error // because the job has ended: a request without an answer is repeated
	_, err := vm.conn.Query(ctx, jobCommand("job-cancel", target))
	if err != nil {
		j, failed := readJob(ctx, vm.conn, target)
		if failed != nil || !errors.As(err, &refused) || newCopy(nil, j).Phase != CopyEnded {
			return errors.Join(err, failed)
		}
	}
	return vm.waitForEnd(ctx, target)
}

func jobCommand(name, target string) qmp.Command {
	return qmp.Command{Execute: name, Arguments: qmp.Object{{Name: "id", Value: copyJob(target)}}}
}

// waitForEnd waits until the job has ended.
func (vm *VM) waitForEnd(ctx context.Context, target string) error {
	const first, longest = time.Millisecond, 50 * time.Millisecond
	for wait := first; ; wait = min(2*wait, longest) {
		j, err := readJob(ctx, vm.conn, target)
		if err != nil {
			return err
		}
		if newCopy(nil, j).Phase == CopyEnded {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// CancelCopy ends a copy, whatever its phase, and removes the parts of the new volume from the VM. The disk stays on the old
// volume. A copy that has ended is cleared up. It may be repeated.
//
// The errors are those of [VM.Copy], a [*PreflightError] with [ErrSwitched] if the device uses the new volume already, and a
// [*LeftBehindError].
func (vm *VM) CancelCopy(ctx context.Context, target string) error {
	lock, err := vm.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	c, err := vm.copyToEnd(ctx, target)
	if err != nil {
		return err
	}
	from := c.Disk.Instance
	if c.Phase != CopyEnded {
		if err := vm.cancelJob(ctx, target); err != nil {
			return fmt.Errorf("disk %s: cancel its copy: %w", target, err)
		}
		if c, err = vm.Copy(ctx, target); err != nil {
			return err
		}
	}
	if c.Disk.Instance != from {
		return &PreflightError{Target: target, Cause: ErrSwitched, Reason: "it uses the new volume already"}
	}
	return vm.endCopy(ctx, c)
}

// EndCopy removes the parts of the volume that the device does not use, after the copy has ended. The errors are those of
// [VM.Copy], a [*PreflightError] with [ErrCopying], and a [*LeftBehindError].
func (vm *VM) EndCopy(ctx context.Context, target string) error {
	lock, err := vm.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	c, err := vm.copyToEnd(ctx, target)
	if err != nil {
		return err
	}
	if c.Phase != CopyEnded {
		return &PreflightError{Target: target, Cause: ErrCopying, Reason: "it is still being copied to another volume"}
	}
	return vm.endCopy(ctx, c)
}

// copyToEnd is Copy for one that is to be removed. Of a run that was killed before it changed the VM only this host has something: that
// is removed, and the error is still [ErrNoCopy].
func (vm *VM) copyToEnd(ctx context.Context, target string) (*Copy, error) {
	c, err := vm.Copy(ctx, target)
	if !errors.Is(err, ErrNoCopy) {
		return c, err
	}
	state, stateErr := vm.State(ctx)
	if stateErr != nil {
		return nil, stateErr
	}
	if disk := state.Disk(target); disk != nil && disk.Copy == nil {
		if e := apply.CleanUpHost(ctx, vm.host, blockgraph.OtherInstance(disk.Instance)); e != nil {
			return nil, &LeftBehindError{Target: target, Left: apply.LeftOnHost(e), Err: e}
		}
	}
	return nil, err
}

// endCopy is EndCopy with the VM's lock taken.
func (vm *VM) endCopy(ctx context.Context, c *Copy) error {
	target, instance := c.Disk.Target, c.Disk.Copy.Instance
	if c.job {
		if err := vm.conn.Repeat(ctx, jobCommand("job-dismiss", target), qmp.ErrJobNotFound); err != nil {
			return fmt.Errorf("disk %s: dismiss the job of its copy: %w", target, err)
		}
	}
	cause := apply.Remove(ctx, vm.conn, vm.host, c.Disk.Copy)
	state, err := vm.State(ctx)
	if err != nil {
		return &LeftBehindError{Target: target, Left: c.Disk.Copy.Left(), Unverified: true, Err: errors.Join(cause, err)}
	}
	left := append(state.Instance(instance).Left(), apply.LeftOnHost(cause)...)
	if len(left) == 0 {
		return nil
	}
	if cause == nil {
		cause = errors.New("QEMU did not remove all of it")
	}
	return &LeftBehindError{Target: target, Left: left, Err: cause}
}
