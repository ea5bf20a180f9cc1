package hotplug

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// medium is what a device reads and writes (query-block, BlockDeviceInfo).
type medium struct {
	node       string
	throttling throttling
}

// throttling are a device's limits.
type throttling struct {
	limits map[string]uint64 // in the words of block_set_io_throttle; none that is 0
	group  string            // whose they are, "" where there are none
}

// UnmarshalJSON implements [json.Unmarshaler].
func (m *medium) UnmarshalJSON(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	limits := map[string]uint64{}
	for name, value := range members {
		if !limitName(name) {
			continue
		}
		var n uint64
		if err := json.Unmarshal(value, &n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		limits[name] = n
	}
	m.throttling.limits = effective(limits)
	var names struct {
		Node  string `json:"node-name"`
		Group string `json:"group"`
	}
	err := json.Unmarshal(text, &names)
	m.node, m.throttling.group = names.Node, names.Group
	return err
}

func limitName(name string) bool {
	return strings.HasPrefix(name, "bps") || strings.HasPrefix(name, "iops")
}

// effective leaves out what says nothing: no limit, and a burst as long as one is
// without a length, 1 second (BlockIOThrottle in QEMU's qapi/block.json).
func effective(limits map[string]uint64) map[string]uint64 {
	out := maps.Clone(limits)
	maps.DeleteFunc(out, func(name string, n uint64) bool {
		return n == 0 || n == 1 && strings.HasSuffix(name, "_max_length")
	})
	return out
}

// limitsOf returns the limits of the device of a holding.
func (s *State) limitsOf(h *Holding) throttling {
	for _, d := range s.Drives {
		if slices.Contains(h.Nodes, d.Node) {
			return d.throttling
		}
	}
	return throttling{}
}

// differsInLimits compares the limits that a device has with those that the graph
// has for it.
func differsInLimits(graph *blockgraph.Graph, have throttling) string {
	want := map[string]uint64{}
	for _, m := range graph.Throttling {
		if n, ok := m.Value.(uint64); ok && limitName(m.Name) {
			want[m.Name] = n
		}
	}
	want = effective(want)
	all := maps.Clone(want)
	maps.Copy(all, have.limits)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if have.limits[name] != want[name] {
			return fmt.Sprintf("its limit %s is %d, not %d", name, have.limits[name], want[name])
		}
	}
	// Without a name the group is the device's own, and has its name.
	group := graph.Throttling.Text("group")
	if group == "" {
		group = graph.Throttling.Text("id")
	}
	if len(want) > 0 && have.group != group {
		return fmt.Sprintf("its limits are those of the group %s, not of %s", have.group, group)
	}
	return ""
}
