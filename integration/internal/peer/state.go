package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// State is everything that an attach and a detach could leave in QEMU or on the host. Each list is sorted.
// Two equal states mean "the VM is as it was before".
type State struct {
	Nodes     []string // node-names of all block nodes
	Objects   []string // user-creatable objects, "id (type)"
	FDSets    []string // passed descriptors, "id (number of descriptors)"
	Devices   []string // devices with an id, "id (type)"
	Anonymous []string // devices without an id
	Blocks    []string // devices with a block backend, "path: node-name"
	Chardevs  []string // character devices
	Jobs      []string // block jobs, "id (type)"
	Host      []string // what luksplug keeps on this host for the VM, see [ReadHost]
}

// State queries QEMU over the control monitor, and lists what luksplug keeps for it on this host.
func (q *QEMU) State(ctx context.Context) (State, error) {
	s, err := q.vm.State(ctx)
	if err == nil {
		s.Host, err = ReadHost(q.UUID)
	}
	return s, err
}

// ReadState queries a QEMU over any monitor connection. Host is left out.
func ReadState(ctx context.Context, m *Monitor) (State, error) {
	r := &stateReader{ctx: ctx, m: m}
	type labelled struct{ ID, Label, Type string }
	s := State{
		Nodes: list(r, "query-named-block-nodes", map[string]any{"flat": true}, func(n struct {
			Name string `json:"node-name"`
		}) string {
			return n.Name
		}),
		Objects: r.properties("/objects"),
		FDSets: list(r, "query-fdsets", nil, func(s struct {
			ID  int               `json:"fdset-id"`
			FDs []json.RawMessage `json:"fds"`
		}) string {
			return fmt.Sprintf("%d (%d)", s.ID, len(s.FDs))
		}),
		Devices:   r.properties("/machine/peripheral"),
		Anonymous: r.properties("/machine/peripheral-anon"),
		Blocks: list(r, "query-block", nil, func(b struct {
			Device, Qdev string
			Inserted     struct {
				Node string `json:"node-name"`
			}
		}) string {
			return b.Device + b.Qdev + ": " + b.Inserted.Node
		}),
		Chardevs: list(r, "query-chardev", nil, func(c labelled) string { return c.Label }),
		Jobs:     list(r, "query-jobs", nil, func(j labelled) string { return j.ID + " (" + j.Type + ")" }),
	}
	if r.err != nil {
		return State{}, fmt.Errorf("read QEMU's state: %w", r.err)
	}
	return s, nil
}

// Diff lists what only s has ("nodes: - x") and what only other has ("nodes: + x").
func (s State) Diff(other State) []string {
	var diff []string
	compare := func(what string, before, after []string) {
		for _, x := range before {
			if !slices.Contains(after, x) {
				diff = append(diff, what+": - "+x)
			}
		}
		for _, x := range after {
			if !slices.Contains(before, x) {
				diff = append(diff, what+": + "+x)
			}
		}
	}
	compare("nodes", s.Nodes, other.Nodes)
	compare("objects", s.Objects, other.Objects)
	compare("fdsets", s.FDSets, other.FDSets)
	compare("devices", s.Devices, other.Devices)
	compare("anonymous devices", s.Anonymous, other.Anonymous)
	compare("blocks", s.Blocks, other.Blocks)
	compare("chardevs", s.Chardevs, other.Chardevs)
	compare("jobs", s.Jobs, other.Jobs)
	compare("on the host", s.Host, other.Host)
	return diff
}

// stateReader runs queries until one fails.
type stateReader struct {
	ctx context.Context
	m   *Monitor
	err error
}

func (r *stateReader) properties(path string) []string {
	return list(r, "qom-list", map[string]any{"path": path}, func(p struct{ Name, Type string }) string {
		if child, ok := strings.CutPrefix(p.Type, "child<"); ok {
			return p.Name + " (" + strings.TrimSuffix(child, ">") + ")"
		}
		return "" // "type", a string, is no object
	})
}

// list returns the names of what a query lists, sorted and never nil. It leaves out what has no name.
func list[T any](r *stateReader, command string, args any, name func(T) string) []string {
	names := []string{}
	if r.err != nil {
		return names
	}
	reply, err := r.m.Execute(r.ctx, command, args)
	var entries []T
	if err == nil {
		err = json.Unmarshal(reply, &entries)
	}
	if err != nil {
		r.err = fmt.Errorf("%s: %w", command, err)
	}
	for _, e := range entries {
		if n := name(e); n != "" {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}
