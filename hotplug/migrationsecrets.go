package hotplug

import (
	"context"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/startgraph"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/secrets"
)

// MissingSecrets returns the ids of secrets that QEMU needs to reopen the images of an
// attached disk, as it does on the source of a migration that fails late
// (qcow2_co_invalidate_cache), and which of them QEMU lacks. Without them the guest loses
// the disk for good. It changes nothing.
func (vm *VM) MissingSecrets(ctx context.Context, d coldstart.Disk) (needed, missing []string, err error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	return vm.missingSecrets(ctx, d, state)
}

func (vm *VM) missingSecrets(ctx context.Context, d coldstart.Disk, state *State) (needed, missing []string, err error) {
	disk := state.Disk(d.Disk.Target)
	if disk == nil || disk.Leftover() {
		return nil, nil, &NotHeldError{Target: d.Disk.Target, VM: vm.opts.Name}
	}
	if disk.Unlock == blockgraph.MethodStorageDaemon {
		return nil, nil, nil // QEMU has not opened them
	}
	graph, _, err := vm.startGraph(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range unlock.Reopened(graph) {
		id = state.NameOf(disk, id)
		if slices.Contains(needed, id) {
			continue
		}
		needed = append(needed, id)
		if _, there := state.Objects[id]; !there {
			missing = append(missing, id)
		}
	}
	return needed, missing, nil
}

func (vm *VM) startGraph(ctx context.Context, d coldstart.Disk) (*blockgraph.Graph, blockgraph.Unlock, error) {
	return startgraph.Build(ctx, vm.host, d.Disk, startgraph.Options{Method: d.Method, Devices: d.Devices})
}

// KeepSecrets gives QEMU the secrets that [VM.MissingSecrets] reports as missing,
// encrypted under the VM's master key if it has one, and returns their ids. They stay in
// QEMU until [VM.Repair] removes them. After a failure QEMU has none of them.
//
// The secrets are not tried on the image.
func (vm *VM) KeepSecrets(ctx context.Context, d coldstart.Disk, store secrets.Store) ([]string, error) {
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	_, missing, err := vm.missingSecrets(ctx, d, state)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	graph, _, err := vm.startGraph(ctx, d)
	if err != nil {
		return nil, err
	}
	plan, disk := &blockgraph.Plan{}, state.Disk(d.Disk.Target)
	for _, s := range graph.Plan().Steps {
		if name := state.NameOf(disk, s.Subject); s.Kind == blockgraph.StepObject && slices.Contains(missing, name) {
			s.Subject, s.Do.Arguments, s.Undo.Arguments = name, s.Do.Arguments.With("id", name), s.Undo.Arguments.With("id", name)
			plan.Steps = append(plan.Steps, s)
		}
	}
	// Reduce the graph to what these steps need.
	graph.Objects = slices.DeleteFunc(graph.Objects, func(o blockgraph.GraphObject) bool {
		return !slices.Contains(missing, state.NameOf(disk, o.ID))
	})
	graph.Nodes, graph.Headers, graph.Files, graph.Devices = nil, nil, nil, nil
	plan.Graph = graph
	values, err := unlock.Resolve(ctx, graph, store, unlock.ToQEMU(ctx, vm.host), unlock.Unlocker{})
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	if err := values.Encrypt(ctx, vm.conn, vm.host, graph, state); err != nil {
		return nil, err
	}
	if _, err := vm.run(plan, values).Do(ctx); err != nil {
		return nil, err
	}
	return missing, nil
}
