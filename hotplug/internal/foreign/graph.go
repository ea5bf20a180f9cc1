package foreign

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/qmp"
)

// graph is XDbgBlockGraph of QEMU's qapi/block-core.json: the block nodes, and what uses
// them. Other queries have no edges before QEMU 10.1.
type graph struct {
	Nodes []vertex `json:"nodes"`
	Edges []edge   `json:"edges"`
}

type vertex struct {
	ID   uint64 `json:"id"`
	Type string `json:"type"` // block-driver, block-backend or block-job
	Name string `json:"name"`
}

type edge struct {
	Parent uint64 `json:"parent"`
	Child  uint64 `json:"child"`
	Name   string `json:"name"` // file, header, backing, data-file; root of a block-backend
}

// backend is the type of what reads and writes the top node of a disk.
const backend = "block-backend"

func readGraph(ctx context.Context, q monitor.Querier) (*graph, error) {
	g, err := monitor.Get[graph](ctx, q, qmp.Command{Execute: "x-debug-query-block-graph"})
	if refused := (*qmp.Error)(nil); errors.As(err, &refused) {
		return nil, &outcome.PreflightError{Cause: outcome.ErrForeignLayout, Reason: "this QEMU does not report which nodes use each other", Err: err}
	}
	return &g, err
}

func (g *graph) vertex(id uint64) vertex {
	if i := slices.IndexFunc(g.Nodes, func(v vertex) bool { return v.ID == id }); i >= 0 {
		return g.Nodes[i]
	}
	return vertex{}
}

// node returns the vertex of a block node.
func (g *graph) node(name string) vertex {
	if i := slices.IndexFunc(g.Nodes, func(v vertex) bool { return v.Type == "block-driver" && v.Name == name }); i >= 0 {
		return g.Nodes[i]
	}
	return vertex{}
}

// parents returns what uses a node.
func (g *graph) parents(name string) []vertex {
	var out []vertex
	id := g.node(name).ID
	for _, e := range g.Edges {
		if e.Child == id {
			out = append(out, g.vertex(e.Parent))
		}
	}
	return out
}

// children returns the nodes below a node, by the names of the edges.
func (g *graph) children(name string) map[string]string {
	out := map[string]string{}
	id := g.node(name).ID
	for _, e := range g.Edges {
		if e.Parent == id {
			out[e.Name] = g.vertex(e.Child).Name
		}
	}
	return out
}

// users describes what uses a node.
func users(ctx context.Context, q monitor.Querier, state *inventory.State, node string, parents []vertex) string {
	var out []string
	for _, p := range parents {
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
	return strings.Join(out, ", ")
}

// export names the exports of a node, as far as QEMU reports them.
func export(ctx context.Context, q monitor.Querier, node string) string {
	all, err := monitor.Get[[]struct {
		ID   string `json:"id"`
		Node string `json:"node-name"`
	}](ctx, q, qmp.Command{Execute: "query-block-exports"})
	var ids []string
	for _, e := range all {
		if err == nil && e.Node == node {
			ids = append(ids, e.ID)
		}
	}
	if len(ids) == 0 {
		return "an export or another user without a name"
	}
	return "the export " + strings.Join(ids, ", ")
}
