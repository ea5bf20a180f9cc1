package apply

import (
	"context"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
)

// verify checks by query that QEMU has everything that the plan makes, and that the
// device uses the top node.
func (r *Run) verify(ctx context.Context) (*inventory.AttachedDisk, error) {
	refuse := func(format string, args ...any) (*inventory.AttachedDisk, error) {
		return nil, fmt.Errorf("verify what was attached: "+format, args...)
	}
	state, err := State(ctx, r.Conn, r.Host)
	if err != nil {
		return refuse("%w", err)
	}
	graph := r.Plan.Graph
	for _, n := range graph.Nodes {
		if state.Node(n.Name) == nil {
			return refuse("QEMU has no node %s, which it reported as added", n.Name)
		}
	}
	for id, want := range remaining(r.Plan) {
		switch _, there := state.Objects[id]; {
		case there && !want:
			return refuse("the object %s is still there, which QEMU reported as deleted", id)
		case !there && want:
			return refuse("QEMU has no object %s, which it reported as added", id)
		}
	}
	disk := state.Disk(graph.Target)
	if disk == nil || disk.Device != graph.Device().ID {
		return refuse("QEMU has no device %s, which it reported as added", graph.Device().ID)
	}
	// An empty drive and a vhost-user disk have no node.
	if top := graph.Top().Name; top != "" && state.DeviceOf(top) != disk.Device {
		return refuse("no device uses node %s", top)
	}
	if len(disk.FDSets) > 0 || len(disk.Files) > 0 {
		return refuse("the ephemeral header still exists: %v", disk.Left())
	}
	return disk, nil
}

// remaining maps each object of a plan to whether it exists at the plan's end: the plan
// releases objects that are needed only to open something.
func remaining(plan *blockgraph.Plan) map[string]bool {
	stays := map[string]bool{}
	for _, s := range plan.Steps {
		switch s.Kind {
		case blockgraph.StepObject:
			stays[s.Subject] = true
		case blockgraph.StepRelease:
			if stays[s.Subject] {
				stays[s.Subject] = false
			}
		}
	}
	return stays
}
