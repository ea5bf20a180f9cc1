package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// NodeUser uses a node, or a node on top of it. QEMU deletes no node that has a user.
type NodeUser struct {
	Kind UserKind
	// Name is the id of a job or export, the name of a node, or the id or QOM path of a device.
	Name string
	// Type is that of a job or export, such as "mirror" or "nbd"; "" if QEMU does not report it, and for the rest.
	Type string
}

// UserKind is the kind of a NodeUser.
type UserKind string

// The kinds.
const (
	UserJob    UserKind = "job"
	UserExport UserKind = "export"
	UserDevice UserKind = "device"
	UserNode   UserKind = "node"
)

func (u NodeUser) String() string {
	out := string(u.Kind) + " " + u.Name
	if u.Type != "" {
		out += " (" + u.Type + ")"
	}
	return out
}

// NodeUsers is what the VM's nodes are used by.
type NodeUsers struct {
	parts   map[uint64]graphPart
	ids     map[string]uint64     // of nodes, by their names
	parents map[uint64][]uint64   // of nodes: what reads them
	exports map[string][]NodeUser // by the names of their nodes
	jobs    map[string]string     // the types of jobs by their ids
}

// ReadNodeUsers queries the users of all nodes: block jobs of every type, exports of every type, nodes, and devices.
// A dirty bitmap is not a user: QEMU deletes it with its node. It changes nothing.
//
// QEMU reports the nodes of a job only by x-debug-query-block-graph (since 4.0). Of a QEMU that refuses the command,
// which it marks as unstable, only exports are known.
func ReadNodeUsers(ctx context.Context, q monitor.Querier) (*NodeUsers, error) {
	commands := []qmp.Command{queryGraph, {Execute: "query-block-exports"}, {Execute: "query-jobs"}}
	var graph blockGraph
	var exports []struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		Node string `json:"node-name"`
	}
	var jobs []struct{ ID, Type string }
	results := q.QueryEach(ctx, commands...)
	for i, into := range []any{&graph, &exports, &jobs} {
		var refused *qmp.Error
		if errors.As(results[i].Err, &refused) {
			continue
		}
		if results[i].Err != nil {
			return nil, fmt.Errorf("query what uses the VM's nodes: %w", results[i].Err)
		}
		if err := monitor.Decode(results[i].Value, into, commands[i]); err != nil {
			return nil, err
		}
	}
	out := &NodeUsers{parts: map[uint64]graphPart{}, ids: map[string]uint64{}, parents: map[uint64][]uint64{}, exports: map[string][]NodeUser{}, jobs: map[string]string{}}
	for _, n := range graph.Nodes {
		out.parts[n.ID] = n
		if n.Type == partNode {
			out.ids[n.Name] = n.ID
		}
	}
	for _, e := range graph.Edges {
		out.parents[e.Child] = append(out.parents[e.Child], e.Parent)
	}
	for _, e := range exports {
		out.exports[e.Node] = append(out.exports[e.Node], NodeUser{UserExport, e.ID, e.Type})
	}
	for _, j := range jobs {
		out.jobs[j.ID] = j.Type
	}
	return out, nil
}

// The types of the parts of a graph. An export has a backend without a name.
const (
	partNode    = "block-driver"
	partJob     = "block-job"
	partBackend = "block-backend"
)

// Of returns the users of a disk's nodes, and of the nodes on top of them, other than the disk's own nodes and device.
func (u *NodeUsers) Of(disk *AttachedDisk) []NodeUser {
	var users []NodeUser
	var generated []NodeUser // nodes that QEMU has named, such as the filter of a job
	var above []uint64
	seen := map[uint64]bool{}
	for _, name := range disk.Nodes {
		users = append(users, u.exports[name]...)
		if id, known := u.ids[name]; known {
			seen[id] = true
			above = append(above, id)
		}
	}
	for len(above) > 0 {
		parents := u.parents[above[0]]
		above = above[1:]
		for _, id := range parents {
			if seen[id] {
				continue
			}
			seen[id] = true
			switch part := u.parts[id]; part.Type {
			case partNode:
				above = append(above, id)
				users = append(users, u.exports[part.Name]...)
				if strings.HasPrefix(part.Name, "#") {
					generated = append(generated, NodeUser{Kind: UserNode, Name: part.Name})
				} else {
					users = append(users, NodeUser{Kind: UserNode, Name: part.Name})
				}
			case partJob:
				users = append(users, NodeUser{UserJob, part.Name, u.jobs[part.Name]})
			case partBackend:
				// A device that is being removed has one without a name, too.
				device := cmp.Or(Drive{Path: part.Name}.device(), part.Name)
				if device != "" && device != disk.Device {
					users = append(users, NodeUser{Kind: UserDevice, Name: device})
				}
			}
		}
	}
	if len(users) == 0 {
		users = generated
	}
	slices.SortFunc(users, func(a, b NodeUser) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	})
	return slices.Compact(users)
}
