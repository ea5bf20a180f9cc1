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
)

// Detached is the result of a detach.
type Detached struct {
	// Target is the disk's target.
	Target string
	// Removed names the parts that were removed, each with its kind.
	Removed []string
	// Waited is how long the guest took to release the device.
	Waited time.Duration
}

// DetachOptions are the options of a detach.
type DetachOptions struct {
	// Wait bounds the wait for the guest to release the device.
	Wait time.Duration
	// Force detaches a disk that the guest has mounted. The guest then gets I/O errors, and
	// loses what it has not written yet.
	Force bool
	// Agent is the agent of the VM's guest, which is asked for mounted file systems. nil is the
	// one at the unix socket at which the VM's QEMU, on this host, listens for a client of the
	// agent's channel.
	Agent Agent
}

// Detach unplugs the disk at target: it requests that the guest releases the device,
// waits for at most options.Wait, and removes the nodes, objects and descriptors. A
// repeated call continues an unfinished detach.
//
// A guest releases a device that it has mounted, too. So the guest's agent is asked first, if
// the VM has one, for at most five seconds. If it does not answer, the disk is detached,
// with a warning.
//
// Before the first change a [*PreflightError] with [ErrDiskInUse] names the block jobs,
// exports, nodes and devices that use the disk's nodes, one with [ErrCopying] the copy to another volume, and one with
// [ErrMounted] the mount points. The other errors are [*NotHeldError], [*PendingError] if the guest has not released the
// device, [*LeftBehindError] if something is left in the VM or on the host, and that of
// [CheckTarget]: a path such as /dev/vdb is not a disk that is missing.
func (vm *VM) Detach(ctx context.Context, target string, options DetachOptions) (*Detached, error) {
	if err := CheckTarget(target); err != nil {
		return nil, err
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	state, disk, err := vm.held(ctx, target)
	if err != nil {
		return nil, err
	}
	if err := vm.checkNotCopied(ctx, disk); err != nil {
		return nil, err
	}
	if err := vm.checkUnused(ctx, disk, "detach"); err != nil {
		return nil, err
	}
	if disk.Device != "" && !options.Force {
		if err := vm.checkUnmounted(ctx, state, disk, options.Agent); err != nil {
			return nil, err
		}
	}
	out := &Detached{Target: target, Removed: disk.Left()}
	begin := time.Now()
	if disk.Device != "" {
		if err := apply.Unplug(ctx, vm.conn, vm.host, target, disk.Device, options.Wait); errors.Is(err, monitor.ErrGone) {
			return nil, &LeftBehindError{Target: target, Left: disk.Left(), Unverified: true, Err: err}
		} else if err != nil {
			return nil, err
		}
		out.Waited = time.Since(begin)
	}
	vm.unfinished(disk.Left())
	defer vm.unfinished(nil)
	controllers, err := apply.RemoveAll(ctx, vm.conn, vm.host, disk)
	if err != nil {
		if err := vm.leftBehind(ctx, target, err); err != nil {
			return nil, err
		}
	}
	for _, id := range controllers {
		if id != disk.Controller {
			out.Removed = append(out.Removed, "controller "+id)
		}
	}
	return out, nil
}

// checkNotCopied refuses a disk that is being copied to another volume.
func (vm *VM) checkNotCopied(ctx context.Context, disk *AttachedDisk) error {
	if disk.Copy == nil {
		return nil
	}
	c, err := vm.copyOf(ctx, disk)
	if err != nil || c.Phase == CopyEnded {
		return err
	}
	return &PreflightError{Target: disk.Target, Cause: ErrCopying,
		Reason: fmt.Sprintf("the job %s copies it to another volume, %s (%d of %d bytes): wait until that has ended, or cancel it", copyJob(disk.Target), disk.Copy.Payload, c.Done, c.Total)}
}

// held queries the VM, and returns its state and the disk at target. The error is a [*NotHeldError] if luksplug has none there.
func (vm *VM) held(ctx context.Context, target string) (*State, *AttachedDisk, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	disk := state.Disk(target)
	if disk == nil {
		return nil, nil, vm.notHeld(ctx, target, state)
	}
	return state, disk, nil
}

// notHeld is the error for a target that luksplug has no disk at.
func (vm *VM) notHeld(ctx context.Context, target string, state *State) error {
	e := &NotHeldError{Target: target, VM: vm.opts.Name}
	for _, other := range state.Disks() {
		e.Held = append(e.Held, other.Target)
	}
	if vm.opts.Disks != nil {
		others, err := vm.opts.Disks(ctx)
		if err != nil {
			return err
		}
		e.Foreign = slices.ContainsFunc(others, func(o blockgraph.OtherDisk) bool { return o.Target == target })
	}
	return e
}

// CheckTarget returns a [*blockgraph.InvalidError] for a text that no disk has as its target.
func CheckTarget(target string) error {
	if _, _, err := blockgraph.ParseTarget(target); err != nil {
		return &blockgraph.InvalidError{Element: "disk/target@dev", Reason: err.Error()}
	}
	return nil
}

// leftBehind turns the error of a removal into one that names the leftovers, nil if there
// are none.
func (vm *VM) leftBehind(ctx context.Context, target string, cause error) error {
	var pending *PendingError
	if errors.As(cause, &pending) {
		return cause
	}
	after, cancel := vm.host.Recovering(ctx)
	defer cancel()
	disk, err := apply.Find(after, vm.conn, vm.host, target)
	if err != nil {
		return &LeftBehindError{Target: target, Left: []string{"everything of the disk but its device"}, Unverified: true, Err: errors.Join(cause, err)}
	}
	left := apply.LeftOnHost(cause)
	if disk != nil {
		left = append(disk.Left(), left...)
	}
	if len(left) == 0 {
		return nil
	}
	return &LeftBehindError{Target: target, Left: left, Err: cause}
}
