package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// Medium is the medium of a device (query-block, BlockDeviceInfo).
type Medium struct {
	Node       string
	Throttling Throttling
}

// Throttling are the limits of a device.
type Throttling struct {
	Limits map[string]uint64 // by the names of block_set_io_throttle, without zeroes
	Group  string            // the group that has them, "" for none
}

// UnmarshalJSON implements [json.Unmarshaler].
func (m *Medium) UnmarshalJSON(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	limits := map[string]uint64{}
	for name, value := range members {
		if !LimitName(name) {
			continue
		}
		var n uint64
		if err := json.Unmarshal(value, &n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		limits[name] = n
	}
	m.Throttling.Limits = Effective(limits)
	var names struct {
		Node  string `json:"node-name"`
		Group string `json:"group"`
	}
	err := json.Unmarshal(text, &names)
	m.Node, m.Throttling.Group = names.Node, names.Group
	return err
}

// LimitName reports whether a member of block_set_io_throttle is a limit.
func LimitName(name string) bool {
	return strings.HasPrefix(name, "bps") || strings.HasPrefix(name, "iops")
}

// Effective leaves out values without effect: no limit, and a burst of the default
// length, 1 second (BlockIOThrottle in QEMU's qapi/block.json).
func Effective(limits map[string]uint64) map[string]uint64 {
	out := maps.Clone(limits)
	maps.DeleteFunc(out, func(name string, n uint64) bool {
		return n == 0 || n == 1 && strings.HasSuffix(name, "_max_length")
	})
	return out
}

// Throttling returns the limits of the device of an attached disk.
func (s *State) Throttling(h *AttachedDisk) Throttling {
	own := make(map[string]bool, len(h.Nodes))
	for _, n := range h.Nodes {
		own[n] = true
	}
	for _, d := range s.Drives {
		if own[d.Node] {
			return d.Throttling
		}
	}
	return Throttling{}
}
