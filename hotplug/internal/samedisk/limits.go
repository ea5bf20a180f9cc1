package samedisk

import (
	"fmt"
	"maps"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
)

// differsInLimits compares the limits of a device with those of the graph.
func differsInLimits(graph *blockgraph.Graph, have inventory.Throttling) string {
	want := map[string]uint64{}
	for _, m := range graph.Throttling {
		if n, ok := m.Value.(uint64); ok && inventory.LimitName(m.Name) {
			want[m.Name] = n
		}
	}
	want = inventory.Effective(want)
	all := maps.Clone(want)
	maps.Copy(all, have.Limits)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if have.Limits[name] != want[name] {
			return fmt.Sprintf("its limit %s is %d, not %d", name, have.Limits[name], want[name])
		}
	}
	// An unnamed group is the device's own, and has its name.
	group := graph.Throttling.Text("group")
	if group == "" {
		group = graph.Throttling.Text("id")
	}
	if len(want) > 0 && have.Group != group {
		return fmt.Sprintf("its limits are those of the group %s, not of %s", have.Group, group)
	}
	return ""
}
