package record

import "slices"

// State is where a disk of ours is, and where not.
type State struct {
	Target     string
	Attached   bool // in QEMU
	Live       bool // recorded in the running domain
	Persistent bool // recorded in the definition
	Optional   bool // so that the domain may run without it
}

// Compare puts together what QEMU has and what is recorded, by target.
func Compare(attached []string, live, persistent Record) []State {
	var out []State
	get := func(target string) *State {
		i := slices.IndexFunc(out, func(s State) bool { return s.Target == target })
		if i < 0 {
			out = append(out, State{Target: target})
			i = len(out) - 1
		}
		return &out[i]
	}
	for _, target := range attached {
		get(target).Attached = true
	}
	for _, d := range live.Disks {
		get(d.Target).Live = true
	}
	for _, d := range persistent.Disks {
		s := get(d.Target)
		s.Persistent, s.Optional = true, d.Optional
	}
	slices.SortFunc(out, func(a, b State) int {
		if a.Target < b.Target {
			return -1
		}
		return 1
	})
	return out
}

// Difference says for people what is not as it should be, "" for nothing. It is
// about a domain that runs.
func (s State) Difference() string {
	switch {
	case s.Attached && !s.Live:
		return "attached, but not in the domain's metadata: it is lost when the domain is saved and restored, or migrated"
	case !s.Attached && s.Live:
		return "in the domain's metadata, but not attached"
	case !s.Attached && s.Persistent && !s.Optional:
		return "belongs to the domain, but is not attached: it is there from the next start on"
	}
	return ""
}
