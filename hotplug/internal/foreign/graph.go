package foreign

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/qmp"
)

// vertex is a block node, or what uses one (XDbgBlockGraphNode of QEMU's qapi/block-core.json).
type vertex struct {
	ID   uint64 `json:"id"`
	Type string `json:"type"` // block-driver, block-backend or block-job
	Name string `json:"name"`
}

// edge is a use of a node (XDbgBlockGraphEdge).
type edge struct {
	Parent uint64 `json:"parent"`
	Child  uint64 `json:"child"`
	Name   string `json:"name"` // file, header, backing, data-file; root of a block-backend
}

// backend is the type of what reads and writes the top node of a disk.
const backend = "block-backend"

// graph has the block nodes, and what uses them. QEMU may list any number of both, so it is
// indexed.
type graph struct {
	vertices map[uint64]vertex
	nodes    map[string]uint64 // the ids of nodes, by their names
	above    map[uint64][]edge
	below    map[uint64][]edge
}

// readGraph queries the graph. Other queries have no edges before QEMU 10.1.
func readGraph(ctx context.Context, q monitor.Querier) (*graph, error) {
	answer, err := monitor.Get[struct {
		Nodes []vertex `json:"nodes"`
		Edges []edge   `json:"edges"`
	}](ctx, q, qmp.Command{Execute: "x-debug-query-block-graph"})
	if refused := (*qmp.Error)(nil); errors.As(err, &refused) {
		return nil, &outcome.PreflightError{Cause: outcome.ErrForeignLayout, Reason: "this QEMU does not report which nodes use each other", Err: err}
	}
	g := &graph{map[uint64]vertex{}, map[string]uint64{}, map[uint64][]edge{}, map[uint64][]edge{}}
	for _, v := range answer.Nodes {
		g.vertices[v.ID] = v
		if v.Type == "block-driver" {
			g.nodes[v.Name] = v.ID
		}
	}
	for _, e := range answer.Edges {
		g.above[e.Child] = append(g.above[e.Child], e)
		g.below[e.Parent] = append(g.below[e.Parent], e)
	}
	return g, err
}

// parents returns what uses a node.
func (g *graph) parents(name string) []vertex {
	var out []vertex
	for _, e := range g.above[g.nodes[name]] {
		out = append(out, g.vertices[e.Parent])
	}
	return out
}

// children returns the nodes below a node, by the names of the edges.
func (g *graph) children(name string) map[string]string {
	out := map[string]string{}
	for _, e := range g.below[g.nodes[name]] {
		out[e.Name] = g.vertices[e.Child].Name
	}
	return out
}

// named is the number of users of a node that a message names.
const named = 8

// users describes what uses a node.
func users(ctx context.Context, q monitor.Querier, state *inventory.State, node string, parents []vertex) string {
	var out []string
	for _, p := range parents[:min(len(parents), named)] {
		switch {
		case p.Type == "block-job":
			out = append(out, "the job "+p.Name)
		case p.Type != backend:
			text := "the node " + p.Name
			if n := state.Node(p.Name); n != nil {
				text += " (" + n.Driver + ")"
			}
			out = append(out, text)
		case p.Name != "":
			out = append(out, "the device "+strings.TrimSuffix(strings.TrimPrefix(p.Name, inventory.Peripheral), "/virtio-backend"))
		default:
			out = append(out, export(ctx, q, node))
		}
	}
	if more := len(parents) - len(out); more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}

// export names the exports of a node, as far as QEMU reports them.
func export(ctx context.Context, q monitor.Querier, node string) string {
	all, err := monitor.Get[[]struct {
		ID   string `json:"id"`
		Node string `json:"node-name"`
	}](ctx, q, qmp.Command{Execute: "query-block-exports"})
	for _, e := range all {
		if err == nil && e.Node == node {
			return "the export " + e.ID
		}
	}
	return "an export or another user without a name"
}
