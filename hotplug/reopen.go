package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// ErrMigrating: the VM is moving to another host.
var ErrMigrating = errors.New("the VM is being migrated")

// reopened returns the ids of secrets of the images that QEMU opens again when a
// guest that was about to leave, or has come, runs on.
func reopened(graph *blockgraph.Graph) (ids []string) {
	for _, n := range graph.Nodes {
		if n.Options.Text("driver") == string(blockgraph.FormatQcow2) {
			ids = append(ids, n.Secrets...)
		}
	}
	return ids
}

// Reopened returns the ids of secrets that QEMU needs once more to open the images
// of an attached disk again, as it does on the source of a migration that has
// failed late (qcow2_co_invalidate_cache), and which of them it has not. Without
// them the guest loses the disk for good. Nothing is changed.
func (vm *VM) Reopened(ctx context.Context, d StartDisk) (needed, missing []string, err error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	return vm.missingAgain(ctx, d, state)
}

func (vm *VM) missingAgain(ctx context.Context, d StartDisk, state *State) (needed, missing []string, err error) {
	h := state.Holding(d.Disk.Target)
	if h == nil || h.Leftover() {
		return nil, nil, &NotHeldError{Target: d.Disk.Target}
	}
	if h.Unlock == blockgraph.ByDaemon {
		return nil, nil, nil // QEMU has not opened them
	}
	arguments, err := (&Starting{vm: vm}).Arguments(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range arguments.Reopened {
		if !slices.Contains(needed, id) {
			needed = append(needed, id)
		}
	}
	for _, id := range needed {
		if _, there := state.Objects[id]; !there {
			missing = append(missing, id)
		}
	}
	return needed, missing, nil
}

// KeepSecrets gives QEMU the secrets that [VM.Reopened] calls missing, encrypted
// under the VM's master key where it has one, and returns their ids. They stay in
// QEMU until [VM.Repair] removes them. After a failure none is there that was not
// there before.
//
// What the key store has is not tried on the image.
func (vm *VM) KeepSecrets(ctx context.Context, d StartDisk, store secrets.Store) ([]string, error) {
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	_, missing, err := vm.missingAgain(ctx, d, state)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	graph, _, err := (&Starting{vm: vm}).graph(ctx, d)
	if err != nil {
		return nil, err
	}
	plan := &blockgraph.Plan{}
	for _, s := range graph.Plan().Steps {
		if s.Kind == blockgraph.StepObject && slices.Contains(missing, s.Subject) {
			plan.Steps = append(plan.Steps, s)
		}
	}
	// What is left of the graph is what these steps are about.
	graph.Objects = slices.DeleteFunc(graph.Objects, func(o blockgraph.GraphObject) bool { return !slices.Contains(missing, o.ID) })
	graph.Nodes, graph.Headers, graph.Files, graph.Devices = nil, nil, nil, nil
	plan.Graph = graph
	values, err := Resolve(ctx, graph, store, Unlocker{})
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	if err := vm.encrypt(ctx, graph, values, state); err != nil {
		return nil, err
	}
	if _, err := vm.Apply(ctx, plan, values); err != nil {
		return nil, err
	}
	return missing, nil
}

// migrating tells whether the VM is on its way to another host. See QEMU's
// query-migrate.
func (vm *VM) migrating(ctx context.Context) (bool, error) {
	value, err := vm.query(ctx, qmp.Command{Execute: "query-migrate"})
	if err != nil {
		return false, err
	}
	var info struct{ Status string }
	if err := json.Unmarshal(value, &info); err != nil {
		return false, fmt.Errorf("query-migrate: unreadable answer: %w", err)
	}
	return !slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, info.Status), nil
}
