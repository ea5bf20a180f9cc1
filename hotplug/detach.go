package hotplug

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
)

// Detached tells what a detach has done.
type Detached struct {
	// Target is the disk's target.
	Target string
	// Removed names what was removed, each part with its kind.
	Removed []string
	// Waited is how long the guest took to release the device.
	Waited time.Duration
}

// Detach unplugs the disk at target: it asks the guest to release the device,
// waits for at most wait, and removes the nodes, objects and descriptors. A
// second call goes on where a first one stopped.
//
// The errors are [*NotHeldError], [*PendingError] when the guest has not
// released the device, and [*LeftBehindError] when QEMU has not removed
// something.
func (vm *VM) Detach(ctx context.Context, target string, wait time.Duration) (*Detached, error) {
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	h := state.Holding(target)
	if h == nil {
		e := &NotHeldError{Target: target}
		for _, other := range state.Holdings() {
			e.Held = append(e.Held, other.Target)
		}
		return nil, e
	}
	out := &Detached{Target: target, Removed: h.Left()}
	begin := time.Now()
	if h.Device != "" {
		if err := vm.waitUnplug(ctx, target, h.Device, wait); errors.Is(err, errMonitorGone) {
			return nil, &LeftBehindError{Target: target, Left: h.Left(), Unverified: true, Err: err}
		} else if err != nil {
			return nil, err
		}
		out.Waited = time.Since(begin)
	}
	controllers, err := vm.removeAll(ctx, h)
	if err != nil {
		if err := vm.stillThere(ctx, target, err); err != nil {
			return nil, err
		}
	}
	for _, id := range controllers {
		if id != h.Controller {
			out.Removed = append(out.Removed, "controller "+id)
		}
	}
	return out, nil
}

// waitUnplug unplugs a device and turns a guest that does not answer into a
// PendingError.
func (vm *VM) waitUnplug(ctx context.Context, target, device string, wait time.Duration) error {
	unplugging, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	begin := time.Now()
	err := vm.unplug(unplugging, device)
	log := vm.log.WithField("disk", target).WithField("step", "device_del "+device)
	switch {
	case errors.Is(err, errMonitorGone):
		return err
	case err == nil:
		log.WithField("duration", time.Since(begin).String()).Debug("the guest has released the device")
		return nil
	case errors.Is(err, errRejected), unplugging.Err() != nil:
		after, cancel := vm.recovery(ctx)
		defer cancel()
		return &PendingError{Target: target, Device: device, Rejected: errors.Is(err, errRejected), Status: vm.runState(after)}
	}
	return fmt.Errorf("disk %s: unplug device %s: %w", target, device, err)
}

// removeAll removes everything of a holding that no device uses any more, and
// the SCSI controllers that were added for a disk and serve none: it returns
// their ids.
func (vm *VM) removeAll(ctx context.Context, h *Holding) ([]string, error) {
	err := vm.remove(ctx, h)
	controllers, e := vm.removeControllers(ctx)
	if err == nil {
		err = e
	}
	return controllers, err
}

// removeControllers unplugs the controllers of ours that have no disk.
func (vm *VM) removeControllers(ctx context.Context) ([]string, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	for i, id := range state.IdleControllers {
		target, _, _ := blockgraph.ParseName(id)
		if err := vm.waitUnplug(ctx, target, id, controllerWait); err != nil {
			return state.IdleControllers[:i], err
		}
	}
	return state.IdleControllers, nil
}

// controllerWait bounds the wait for a guest to release a SCSI controller
// without disks, which it has no reason to keep.
const controllerWait = 30 * time.Second

// stillThere turns the error of a removal into one that names what is left: nil
// when nothing is, whoever removed it.
func (vm *VM) stillThere(ctx context.Context, target string, cause error) error {
	var pending *PendingError
	if errors.As(cause, &pending) {
		return cause
	}
	after, cancel := vm.recovery(ctx)
	defer cancel()
	state, err := vm.State(after)
	if err != nil {
		return &LeftBehindError{Target: target, Left: []string{"everything of the disk but its device"}, Unverified: true, Err: errors.Join(cause, err)}
	}
	if h := state.Holding(target); h != nil {
		return &LeftBehindError{Target: target, Left: h.Left(), Err: cause}
	}
	return nil
}
