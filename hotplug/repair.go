package hotplug

import (
	"context"
	"errors"
	"fmt"
)

// List returns what luksplug holds in the VM, leftovers of interrupted runs
// included, sorted by target. Nothing is changed, and no lock is taken.
func (vm *VM) List(ctx context.Context) ([]*Holding, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	return state.Holdings(), nil
}

// Repair removes what interrupted runs have left, of every target, and returns
// what it removed. Of disks that a device uses only secrets are removed, which
// QEMU needs no more once the guest runs; see [Started].
func (vm *VM) Repair(ctx context.Context) ([]*Holding, error) {
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	var removed []*Holding
	var failed []error
	for _, h := range state.Holdings() {
		if !h.Leftover() {
			left, err := vm.removeSecrets(ctx, h, state)
			failed = append(failed, err)
			if left != nil {
				removed = append(removed, left)
			}
			continue
		}
		if _, err := vm.clear(ctx, h); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, h)
	}
	failed = append(failed, vm.forgetOthers(ctx, state))
	given, err := vm.forbidOthers(ctx, state)
	removed, failed = append(removed, given...), append(failed, err)
	return removed, errors.Join(failed...)
}

// removeSecrets removes the secrets of an attached disk, and returns them as a
// holding of their own, nil for none.
func (vm *VM) removeSecrets(ctx context.Context, h *Holding, state *State) (*Holding, error) {
	left := &Holding{Target: h.Target}
	for _, id := range h.Objects {
		if state.Objects[id] == "secret" {
			left.Objects = append(left.Objects, id)
		}
	}
	if len(left.Objects) == 0 {
		return nil, nil
	}
	if vm.runState(ctx) != "running" {
		return nil, nil // a VM that has been restored opens its images when it is resumed
	}
	migrating, err := vm.migrating(ctx)
	if err != nil {
		return nil, err
	}
	if migrating {
		return nil, fmt.Errorf("disk %s: QEMU may need its secrets again, which are not removed: %w", h.Target, ErrMigrating)
	}
	for _, id := range left.Objects {
		if err := vm.deleteObject(ctx, id); err != nil {
			return nil, err
		}
	}
	return left, nil
}
