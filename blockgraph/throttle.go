package blockgraph

import (
	"slices"
	"strconv"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// filters adds the throttle filters over a node, the first one lowest, and
// returns the top one.
//
//	<throttlefilters>, each                -> driver throttle, throttle-group, file
//	<throttlegroups> of the domain, those  -> object throttle-group, limits
//
// A group belongs to the VM: its disks share the limits, and its object has
// libvirt's name. It is added if QEMU lacks it, and remains after a detach. See
// QEMU's docs/throttle.txt and qapi/block-core.json, BlockdevOptionsThrottle.
func (b *builder) filters(top string, m Machine) (string, error) {
	for i, name := range b.disk.ThrottleFilters {
		id := "throttle-" + name
		var objects []string
		if g := slices.IndexFunc(m.ThrottleGroups, func(g ThrottleGroup) bool { return g.Limits.Group == name }); g >= 0 {
			if group := m.ThrottleGroups[g]; !group.Exists {
				objects = []string{id}
				b.graph.Objects = append(b.graph.Objects, GraphObject{ID: id, Options: Object{
					{"qom-type", "throttle-group"}, {"id", id}, {"limits", group.Limits.groupLimits()}}})
			}
		} else if m.Known() {
			return "", &PlacementError{Target: b.disk.Target, Reason: "throttle group '" + message.Shorten(name) + "' not found: the VM has no <throttlegroup> of this name"}
		}
		options := Object{{"driver", "throttle"}, {"node-name", b.name(RoleFilter + Role(strconv.Itoa(i)))},
			{"throttle-group", id}, {"file", top}}
		top = b.add(Node{Role: RoleFilter + Role(strconv.Itoa(i)), Objects: objects, Children: []Child{{"file", top}}, Options: options})
	}
	return top, nil
}
