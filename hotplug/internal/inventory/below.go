package inventory

import (
	"context"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// queryGraph returns all nodes of a QEMU with their edges. QEMU marks the command as unstable.
var queryGraph = qmp.Command{Execute: "x-debug-query-block-graph"}

// blockGraph is XDbgBlockGraph of QEMU's qapi/block-core.json.
type blockGraph struct {
	Nodes []graphPart
	Edges []struct{ Parent, Child uint64 }
}

// graphPart is XDbgBlockGraphNode of QEMU's qapi/block-core.json.
type graphPart struct {
	ID   uint64
	Type string
	Name string
}

// undecided returns the nodes over the images of luksplug's disks that have images of two instances.
func (s *State) undecided() []string {
	above, images := map[string][]string{}, map[string]bool{}
	for _, n := range s.Nodes {
		switch instance, role, ours := blockgraph.ParseName(n.Name); {
		case !ours, role == blockgraph.RoleGuard:
		case role.AboveImages():
			above[instance] = append(above[instance], n.Name)
		default:
			images[instance] = true
		}
	}
	var out []string
	for target, nodes := range above {
		if images[target] && images[blockgraph.OtherInstance(target)] {
			out = append(out, nodes...)
		}
	}
	return out
}

// Below queries the nodes below the nodes over a disk's images, by the names of those: each is the first that is not one of
// them. QEMU reports them only by x-debug-query-block-graph, which it marks as unstable: the error may be its refusal.
func Below(ctx context.Context, q monitor.Querier, disk *AttachedDisk) (map[string]string, error) {
	var above []string
	for _, name := range disk.Nodes {
		if _, role, ours := blockgraph.ParseName(name); ours && role.AboveImages() {
			above = append(above, name)
		}
	}
	return below(ctx, q, above)
}

// below is Below for those nodes. Without any it queries nothing.
func below(ctx context.Context, q monitor.Querier, above []string) (map[string]string, error) {
	if len(above) == 0 {
		return nil, nil
	}
	graph, err := monitor.Get[blockGraph](ctx, q, queryGraph)
	if err != nil {
		return nil, fmt.Errorf("query which node is below %s: %w", above[0], err)
	}
	names, ids, child := map[uint64]string{}, map[string]uint64{}, map[uint64]uint64{}
	for _, n := range graph.Nodes {
		if n.Type == partNode {
			names[n.ID], ids[n.Name] = n.Name, n.ID
		}
	}
	filter := map[uint64]bool{}
	for _, name := range above {
		filter[ids[name]] = true
	}
	for _, e := range graph.Edges {
		if filter[e.Parent] { // each has one child
			child[e.Parent] = e.Child
		}
	}
	out := map[string]string{}
	for _, name := range above {
		at := child[ids[name]]
		for n := 0; filter[at] && n < len(above); n++ {
			at = child[at]
		}
		out[name] = names[at]
	}
	return out, nil
}
