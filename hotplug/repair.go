package hotplug

import (
	"context"
	"errors"
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
// what it removed. Disks that a device uses are not touched.
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
			continue
		}
		if _, err := vm.clear(ctx, h); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, h)
	}
	failed = append(failed, vm.forgetOthers(ctx, state))
	return removed, errors.Join(failed...)
}
