package libvirtvm

import (
	"context"
	"maps"
	"slices"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// State tells where a disk of luksplug's is attached and recorded.
type State struct {
	Target     string
	Attached   bool // in QEMU
	Live       bool // recorded in the running domain
	Persistent bool // recorded in the definition
	Optional   bool // so that the domain may run without it
}

// compare merges the attached and the recorded disks, by target.
func compare(attached []string, live, persistent record.Record) []State {
	all := map[string]*State{}
	get := func(target string) *State {
		if all[target] == nil {
			all[target] = &State{Target: target}
		}
		return all[target]
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
	var out []State
	for _, target := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[target])
	}
	return out
}

// Difference returns the difference between QEMU and the records of a running domain
// in human-readable form, "" for none.
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

// Recorded returns the scopes in which the disk is recorded.
func (s State) Recorded() []Scope {
	var out []Scope
	if s.Live {
		out = append(out, Live)
	}
	if s.Persistent {
		out = append(out, Persistent)
	}
	return out
}

// States compares the attached disks, as [hotplug.VM.List] returns them, with the
// records. Records that do not verify are reported in the log.
func (d *Domain) States(ctx context.Context, disks []*hotplug.AttachedDisk) ([]State, error) {
	live, persistent, err := readBoth(ctx, d)
	if err != nil {
		return nil, err
	}
	d.warnUnverified(map[Scope]record.Record{Live: live, Persistent: persistent})
	return statesOf(disks, live, persistent), nil
}

func states(ctx context.Context, at descriptions, disks []*hotplug.AttachedDisk) ([]State, error) {
	live, persistent, err := readBoth(ctx, at)
	if err != nil {
		return nil, err
	}
	return statesOf(disks, live, persistent), nil
}

func statesOf(disks []*hotplug.AttachedDisk, live, persistent record.Record) []State {
	var attached []string
	for _, h := range disks {
		if !h.Leftover() {
			attached = append(attached, h.Target)
		}
	}
	return compare(attached, live, persistent)
}
