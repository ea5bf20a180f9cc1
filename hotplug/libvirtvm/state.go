package libvirtvm

import (
	"context"
	"maps"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
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
	Off        bool // the domain is off
	Twice      bool // libvirt has another disk with this target
	// OtherVolume is true if the running domain's record is of a volume that the disk does not use: a re-encryption has ended in
	// between. It is false if this host does not know.
	OtherVolume bool
	// Payload and Header are the images of the recorded disk, "" if it has none or its XML
	// cannot be read.
	Payload, Header string
	// ReadOnly and Encrypted are properties of the recorded disk, and Recovery how its header
	// is recovered.
	ReadOnly, Encrypted bool
	Recovery            blockgraph.Recovery
}

// describe sets what the XML of a record says.
func (s *State) describe(r record.Disk) {
	disk, err := r.Parsed()
	if err != nil {
		return // the functions that act on the record report it
	}
	s.Payload, s.Header = disk.Image.Source.String(), ""
	if h := disk.Header(); h != nil {
		s.Header = h.Source.String()
	}
	s.ReadOnly, s.Encrypted, s.Recovery = disk.ReadOnly, disk.Encrypted(), disk.Recovery()
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
	for _, d := range persistent.Disks {
		s := get(d.Target)
		s.Persistent, s.Optional = true, d.Optional
		s.describe(d)
	}
	for _, d := range live.Disks {
		s := get(d.Target)
		s.Live = true
		s.describe(d)
	}
	var out []State
	for _, target := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[target])
	}
	return out
}

// Difference returns the differences between QEMU, the records and libvirt's own disks in
// human-readable form, "" for none.
func (s State) Difference() string {
	const twice = "libvirt has another disk of the domain with this target: only luksplug knows this one"
	out := s.unrecorded()
	switch {
	case !s.Twice:
		return out
	case out == "":
		return twice
	}
	return out + "; " + twice
}

// unrecorded returns the difference between QEMU and the records of a running domain.
func (s State) unrecorded() string {
	switch {
	case s.Off:
		return ""
	case s.Attached && !s.Live:
		return "attached, but not in the domain's metadata: it is lost when the domain is saved and restored, or migrated"
	case s.Attached && s.OtherVolume:
		return "in the domain's metadata with another volume than it uses, which the domain would get when it is saved and restored, or migrated"
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

// Listing is what luksplug has in a domain.
type Listing struct {
	// Off is true if the domain is off: it has only what its definition records.
	Off bool
	// Disks are those in QEMU, as [hotplug.VM.List] returns them.
	Disks []*hotplug.AttachedDisk
	// States compares them with the records; sorted by target. It is nil for a VM without
	// records.
	States []State
}

// List returns the disks of luksplug's in the domain, which may be off. It changes nothing.
// Records that do not verify are reported in the log.
func (d *Domain) List(ctx context.Context) (*Listing, error) {
	running, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	if !running {
		return d.listOff(ctx)
	}
	vm, err := d.VM(ctx)
	if err != nil {
		return nil, err
	}
	disks, err := vm.List(ctx)
	if err != nil {
		return nil, err
	}
	live, persistent, err := readBoth(ctx, d)
	if err != nil {
		return nil, err
	}
	d.warnUnverified(map[Scope]record.Record{Live: live, Persistent: persistent})
	out := &Listing{Disks: disks, States: statesOf(disks, live, persistent)}
	if theirs, err := d.disks(ctx); err != nil {
		d.log.Warnf("not compared with libvirt's own disks: %v", err)
	} else {
		out.compareTargets(theirs)
	}
	return out, nil
}

// listOff is List for a domain that is off.
func (d *Domain) listOff(ctx context.Context) (*Listing, error) {
	persistent, err := d.read(ctx, Persistent)
	if err != nil {
		return nil, err
	}
	d.warnUnverified(map[Scope]record.Record{Persistent: persistent})
	return listOff(ctx, d, persistent)
}

func listOff(ctx context.Context, at descriptions, persistent record.Record) (*Listing, error) {
	out := &Listing{Off: true, States: compare(nil, record.Record{}, persistent)}
	for i := range out.States {
		out.States[i].Off = true
	}
	doc, err := at.definition(ctx)
	if err != nil {
		return nil, err
	}
	if m, err := diskxml.ParseDomain(doc.Text()); err == nil { // others need not be valid to luksplug
		out.compareTargets(m.Disks)
	}
	return out, nil
}

// compareTargets compares the targets with those of libvirt's own disks. libvirt does not
// know the targets of luksplug's, and may give them again.
func (l *Listing) compareTargets(theirs []blockgraph.OtherDisk) {
	taken := map[string]bool{}
	for _, disk := range theirs {
		taken[disk.Target] = true
	}
	for i := range l.States {
		s := &l.States[i]
		s.Twice = taken[s.Target]
	}
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
	out := compare(attached, live, persistent)
	for _, h := range disks {
		if have := live.Disk(h.Target); have != nil && !h.Leftover() {
			i := slices.IndexFunc(out, func(s State) bool { return s.Target == h.Target })
			out[i].OtherVolume = ofOtherVolume(*have, h)
		}
	}
	return out
}

// ofOtherVolume reports whether the record of an attached disk is of a volume that is neither the disk's nor, while the disk is
// copied, the one that it is about to use. It is false if this host does not know.
func ofOtherVolume(have record.Disk, h *hotplug.AttachedDisk) bool {
	kept := keptRecord(h)
	if kept == nil || sameVolume(have, *kept) {
		return false
	}
	if h.Copy == nil {
		return true
	}
	next := keptRecord(h.Copy)
	return next != nil && !sameVolume(have, *next)
}
