package hotplug

import (
	"context"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// Attached tells what an attach has done.
type Attached struct {
	// Holding is what is in the VM now.
	Holding
	// Already is true when the disk was attached before, and nothing was done.
	Already bool
	// Cleared names what an interrupted run had left and was removed first.
	Cleared []string
	// Bus and Address say where the device is, as far as the plan says so.
	Bus, Address string
	// Serial is what the guest sees as the disk's serial, "" for none.
	Serial string
	// Steps are the steps of the plan, with their times.
	Steps []StepReport
	// Duration is the time from the first step to the last.
	Duration time.Duration
}

// Attach plugs a disk into the VM. Its secret comes from store and is looked up
// only when it is needed. Nothing is done when the very same disk is attached
// already; what an interrupted run left of it is removed first.
//
// Before anything is changed the errors are [*PreflightError], [*VersionError],
// [*SecretError], [*LockedError] and those of package blockgraph; after that
// [*RolledBackError] and [*LeftBehindError], which wrap the first error.
func (vm *VM) Attach(ctx context.Context, disk *blockgraph.Disk, store secrets.Store) (*Attached, error) {
	if err := disk.Validate(); err != nil {
		return nil, err
	}
	if err := disk.CheckHotplug(); err != nil {
		return nil, err
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	out := &Attached{}
	if h := state.Holding(disk.Target); h != nil && !h.Leftover() {
		return vm.already(ctx, disk, state, h)
	} else if h != nil {
		out.Cleared = h.Left()
		vm.log.WithField("disk", disk.Target).Warnf("removing what an interrupted run has left: %v", out.Cleared)
		if state, err = vm.clear(ctx, h); err != nil {
			return nil, err
		}
	}
	plan, err := vm.Plan(ctx, disk, state)
	if err != nil {
		return nil, err
	}
	values, err := Resolve(ctx, disk, store)
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	if err := vm.preflight(ctx, disk, plan, values, state); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := vm.applyAndVerify(ctx, plan, values, out); err != nil {
		return nil, err
	}
	out.Duration = time.Since(begin)
	device := plan.Graph.Device().Options
	out.Bus, out.Address, out.Serial = device.Text("bus"), device.Text("addr"), device.Text("serial")
	return out, nil
}

// Plan builds the plan of a disk for this VM as it is now. Nothing is changed.
func (vm *VM) Plan(ctx context.Context, disk *blockgraph.Disk, state *State) (*blockgraph.Plan, error) {
	machine, err := vm.Machine(ctx, disk, state)
	if err != nil {
		return nil, fmt.Errorf("look at the VM: %w", err)
	}
	graph, err := blockgraph.Build(disk, machine, blockgraph.Unlock{})
	if err != nil {
		return nil, err
	}
	if graph.Device().Options.Text("bus") == rootComplex {
		return nil, &blockgraph.PlacementError{Target: disk.Target, Reason: "pcie.0 takes no hot plug: give the <address> of a pcie-root-port, or none to have a free one chosen"}
	}
	return graph.Plan(), nil
}

// rootComplex is the root bus of a PCI Express machine. Devices can only be on
// it from the start of the VM.
const rootComplex = "pcie.0"

// already answers for a target that has a disk: the same one, or another.
func (vm *VM) already(ctx context.Context, disk *blockgraph.Disk, state *State, h *Holding) (*Attached, error) {
	difference, err := vm.differs(ctx, disk, state, h)
	if err != nil {
		return nil, err
	}
	if difference != "" {
		return nil, &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("another disk is attached as %s (%s): detach it first, or give this one another target", disk.Target, difference)}
	}
	return &Attached{Holding: *h, Already: true}, nil
}

// applyAndVerify applies the plan and looks whether all of it is there.
func (vm *VM) applyAndVerify(ctx context.Context, plan *blockgraph.Plan, values Values, out *Attached) error {
	r := &run{vm: vm, plan: plan, values: values}
	err := r.steps(ctx)
	out.Steps = r.reports
	if err == nil {
		err = r.verify(ctx, out)
	}
	if err != nil {
		return r.fail(ctx, err)
	}
	return nil
}

// verify asks QEMU whether everything that the plan makes is there, and whether
// the device uses the top node.
func (r *run) verify(ctx context.Context, out *Attached) error {
	state, err := r.vm.State(ctx)
	if err != nil {
		return fmt.Errorf("verify what was attached: %w", err)
	}
	graph := r.plan.Graph
	for _, n := range graph.Nodes {
		if state.Node(n.Name) == nil {
			return fmt.Errorf("verify what was attached: QEMU has no node %s, which it said it had added", n.Name)
		}
	}
	for _, o := range graph.Objects {
		if _, there := state.Objects[o.ID]; there {
			return fmt.Errorf("verify what was attached: the object %s is still there, which QEMU said it had deleted", o.ID)
		}
	}
	h := state.Holding(graph.Target)
	if h == nil || h.Device != graph.Device().ID || state.deviceOf([]string{graph.Top().Name}) != h.Device {
		return fmt.Errorf("verify what was attached: no device uses node %s", graph.Top().Name)
	}
	out.Holding = *h
	return nil
}

// clear removes a leftover and returns what exists then.
func (vm *VM) clear(ctx context.Context, h *Holding) (*State, error) {
	_, err := vm.removeAll(ctx, h)
	state, stateErr := vm.State(ctx)
	if stateErr != nil {
		return nil, stateErr
	}
	if left := state.Holding(h.Target); left != nil {
		if err == nil {
			err = fmt.Errorf("QEMU did not remove all of it")
		}
		return nil, &LeftBehindError{Target: h.Target, Left: left.Left(), Err: fmt.Errorf("what an interrupted run has left cannot be removed: %w", err)}
	}
	return state, nil
}
