package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// State is what "the VM is as it was before" is judged by: everything that a
// plug and an unplug could leave in QEMU. Each list is sorted.
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

// State queries the running QEMU over the control monitor, and looks at what
// luksplug keeps for it on this host.
func (q *QEMU) State(ctx context.Context) (State, error) {
	s, err := q.vm.State(ctx)
	if err == nil {
		s.Host, err = ReadHost(q.UUID)
	}
	return s, err
}

// ReadState queries a QEMU over any monitor connection. Host is left out.
func ReadState(ctx context.Context, m *Monitor) (State, error) {
	r := stateReader{ctx: ctx, m: m}
	s := State{
		Nodes:     r.nodes(),
		Objects:   r.properties("/objects"),
		FDSets:    r.fdsets(),
		Devices:   r.properties("/machine/peripheral"),
		Anonymous: r.properties("/machine/peripheral-anon"),
		Blocks:    r.blocks(),
		Chardevs:  r.chardevs(),
		Jobs:      r.jobs(),
	}
	if r.err != nil {
		return State{}, fmt.Errorf("read QEMU's state: %w", r.err)
	}
	return s, nil
}

// Diff lists what is in s and not in other ("nodes: - x") and the reverse
// ("nodes: + x"); it is empty when the two are equal.
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

// query decodes a command's answer into into.
func (r *stateReader) query(command string, args, into any) {
	if r.err != nil {
		return
	}
	reply, err := r.m.Execute(r.ctx, command, args)
	if err == nil {
		err = json.Unmarshal(reply, into)
	}
	if err != nil {
		r.err = fmt.Errorf("%s: %w", command, err)
	}
}

func (r *stateReader) nodes() []string {
	var reply []struct {
		Name string `json:"node-name"`
	}
	r.query("query-named-block-nodes", map[string]any{"flat": true}, &reply)
	return sorted(reply, func(i int) string { return reply[i].Name })
}

func (r *stateReader) properties(path string) []string {
	var reply []struct{ Name, Type string }
	r.query("qom-list", map[string]any{"path": path}, &reply)
	reply = slices.DeleteFunc(reply, func(p struct{ Name, Type string }) bool {
		return !strings.HasPrefix(p.Type, "child<") // "type", a string, is no object
	})
	return sorted(reply, func(i int) string {
		return reply[i].Name + " (" + strings.TrimSuffix(strings.TrimPrefix(reply[i].Type, "child<"), ">") + ")"
	})
}

func (r *stateReader) fdsets() []string {
	var reply []struct {
		ID  int               `json:"fdset-id"`
		FDs []json.RawMessage `json:"fds"`
	}
	r.query("query-fdsets", nil, &reply)
	return sorted(reply, func(i int) string { return fmt.Sprintf("%d (%d)", reply[i].ID, len(reply[i].FDs)) })
}

func (r *stateReader) blocks() []string {
	var reply []struct {
		Device   string
		Qdev     string
		Inserted struct {
			Node string `json:"node-name"`
		}
	}
	r.query("query-block", nil, &reply)
	return sorted(reply, func(i int) string { return reply[i].Device + reply[i].Qdev + ": " + reply[i].Inserted.Node })
}

func (r *stateReader) chardevs() []string {
	var reply []struct{ Label string }
	r.query("query-chardev", nil, &reply)
	return sorted(reply, func(i int) string { return reply[i].Label })
}

func (r *stateReader) jobs() []string {
	var reply []struct{ ID, Type string }
	r.query("query-jobs", nil, &reply)
	return sorted(reply, func(i int) string { return reply[i].ID + " (" + reply[i].Type + ")" })
}

// sorted lists name(i) for every element, in order; it is never nil.
func sorted[T any](list []T, name func(int) string) []string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = name(i)
	}
	slices.Sort(names)
	return names
}
