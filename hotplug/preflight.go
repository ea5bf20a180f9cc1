package hotplug

import (
	"context"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
)

// preflight checks a plan against the VM before the first command that changes
// anything: what QEMU can do, which names are free, and what the files are.
//
// It returns the size in bytes that the volume must have, 0 for any.
func (a *attach) preflight(ctx context.Context, plan *blockgraph.Plan, unlock blockgraph.Unlock, state *State) (int64, error) {
	if err := a.vm.checkNames(plan, state); err != nil {
		return 0, err
	}
	if err := a.vm.CheckPlan(ctx, plan); err != nil {
		return 0, err
	}
	if err := a.vm.checkDevicesOfHost(ctx, a.disk); err != nil {
		return 0, err
	}
	if err := a.checkOverlay(ctx, plan.Graph); err != nil {
		return 0, err
	}
	size, err := a.checkFiles(ctx, unlock, state)
	if err == nil {
		a.permits, err = a.checkPermissions(ctx, unlock.Way)
	}
	return size, err
}

func (vm *VM) checkNames(plan *blockgraph.Plan, state *State) error {
	refuse := func(what, name string) error {
		return &PreflightError{Target: plan.Graph.Target, Reason: fmt.Sprintf("the name of %s %s is taken in this VM: give the disk another target or alias", what, name)}
	}
	for _, n := range plan.Graph.Nodes {
		if state.Node(n.Name) != nil {
			return refuse("node", n.Name)
		}
	}
	for _, o := range plan.Graph.Objects {
		if _, taken := state.Objects[o.ID]; taken {
			return refuse("object", o.ID)
		}
	}
	for _, d := range plan.Graph.Devices {
		if _, taken := state.Devices[d.ID]; taken {
			return refuse("device", d.ID)
		}
	}
	return nil
}
