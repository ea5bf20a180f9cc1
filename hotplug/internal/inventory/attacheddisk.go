package inventory

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// AttachedDisk is what luksplug has in the VM and on the host for one target.
type AttachedDisk struct {
	// Target is the disk's target, such as "vdb".
	Target string
	// Instance is that of the parts, see [blockgraph.OtherInstance]: its names are those in QEMU and on the host.
	Instance string
	// Copy are the parts of the disk's other instance, to which it is, was or will be copied; nil for none. It has no device.
	Copy *AttachedDisk
	// Device is the id of the device in the guest, "" for a leftover of an interrupted
	// run.
	Device string
	// Driver is the device's type, such as "virtio-blk-pci".
	Driver string
	// Nodes are the block nodes, parents before their children.
	Nodes []string
	// Objects are the ids of the objects.
	Objects []string
	// Chardevs are the ids of the character devices.
	Chardevs []string
	// Controller is the id of a SCSI controller that was added for the disk and has no
	// disk left.
	Controller string
	// FDSets are the ids of the descriptor sets.
	FDSets []int64
	// Size is the size in the guest, in bytes; 0 for a leftover.
	Size int64
	// ReadOnly is true if the guest cannot write.
	ReadOnly bool
	// Bus and Address locate the device, as far as they are known, and Serial is the disk's
	// serial in the guest, "" for none. See [AddFrontends].
	Bus, Address, Serial string
	// Payload and Header are the paths of the images, "" for an image without one. QEMU
	// does not know the path of an original header, only the host on which the disk was
	// attached does.
	Payload, Header string
	// Recovery is set if Header is a backup of the header in the payload, by which the
	// volume is recovered. Only the host on which the disk was attached knows.
	Recovery blockgraph.Recovery
	// Unlock is the method by which the volume was opened, "" for a disk without encryption.
	Unlock blockgraph.Method
	// UUID is the UUID of the LUKS volume, "" if QEMU does not know it.
	UUID string
	// Daemon is the process id of the storage daemon that serves the disk, 0
	// for none.
	Daemon int
	// Helper is the process id of luksplug's helper of the disk's reservations, 0 for
	// none.
	Helper int
	// Files are the paths of files that were handed over and not yet removed.
	Files []string
	// Given are the paths of images that were returned by QEMU's user to their owners: set
	// only in the result of [VM.Repair].
	Given []string
	// Kept is the text that the attach has kept, see [AttachOptions].
	Kept string
	// Adopted is true for a disk that was attached without luksplug, whose parts have other
	// names.
	Adopted bool

	// above and guard have the names of the first instance, but belong to the one that the device uses, and to the other
	// one: until that is known they are here.
	above []string
	guard guard
}

// guard are the parts of a [blockgraph.Guard].
type guard struct {
	nodes  []string
	fdsets []int64
}

// Leftover reports whether no device uses the disk's parts.
func (d *AttachedDisk) Leftover() bool { return d.Device == "" }

// Left names the disk's parts, each with its kind.
func (d *AttachedDisk) Left() []string {
	if d == nil {
		return nil
	}
	var out []string
	if d.Device != "" {
		out = append(out, "device "+d.Device)
	}
	if d.Controller != "" {
		out = append(out, "controller "+d.Controller)
	}
	for _, n := range d.Nodes {
		out = append(out, "node "+n)
	}
	for _, o := range d.Objects {
		out = append(out, "object "+o)
	}
	for _, id := range d.Chardevs {
		out = append(out, "chardev "+id)
	}
	for _, id := range d.FDSets {
		out = append(out, fmt.Sprintf("fdset %d", id))
	}
	if d.Daemon != 0 {
		out = append(out, fmt.Sprintf("storage daemon %d", d.Daemon))
	}
	if d.Helper != 0 {
		out = append(out, fmt.Sprintf("reservation helper %d", d.Helper))
	}
	for _, path := range d.Files {
		out = append(out, "file "+path)
	}
	for _, path := range d.Given {
		out = append(out, "QEMU's user as the owner of "+path)
	}
	return append(out, d.Copy.Left()...)
}

// byInstance maps instances to their parts.
type byInstance map[string]*AttachedDisk

// of returns the disk of a name, and the name's role; nil for a name that is not
// luksplug's.
func (b byInstance) of(name string) (*AttachedDisk, blockgraph.Role) {
	instance, role, ok := blockgraph.ParseName(name)
	if !ok {
		return nil, ""
	}
	if b[instance] == nil {
		b[instance] = &AttachedDisk{Target: blockgraph.TargetOf(instance), Instance: instance}
	}
	return b[instance], role
}

// joined returns the disks: of one with two instances, that which the device uses has the other one as its copy. below are the
// nodes below filters, see [State].
func (b byInstance) joined(uses map[string]use, below map[string]string) []*AttachedDisk {
	var out []*AttachedDisk
	for instance, d := range b {
		if instance != d.Target && b[d.Target] != nil {
			continue // the first instance has this one
		}
		if other := b[blockgraph.OtherInstance(d.Target)]; other != nil && other != d {
			d = d.join(other, uses, below)
		}
		d.placeShared(d)
		out = append(out, d)
	}
	return out
}

// join returns the disk of two instances. The id of the device names the first one, d.
func (d *AttachedDisk) join(other *AttachedDisk, uses map[string]use, below map[string]string) *AttachedDisk {
	first := d
	if other.current(d, uses, below) {
		d, other = other, d
	}
	d.placeShared(first)
	if d.Device == "" {
		d.Device = other.Device
	}
	if d.Controller == "" {
		d.Controller = other.Controller
	}
	other.Device, other.Controller = "", ""
	if len(other.Left()) > 0 {
		if d.Copy != nil {
			other.Nodes, other.FDSets = append(other.Nodes, d.Copy.Nodes...), append(other.FDSets, d.Copy.FDSets...)
		}
		d.Copy = other
	}
	return d
}

// current reports whether the device of a disk uses the second instance, d: by itself, or through the nodes above the images.
func (d *AttachedDisk) current(first *AttachedDisk, uses map[string]use, below map[string]string) bool {
	if len(first.above) > 0 && len(first.Nodes) == 0 {
		return len(d.Nodes) > 0
	}
	return slices.ContainsFunc(d.Nodes, func(node string) bool { return uses[node].drive.device() != "" }) ||
		slices.ContainsFunc(first.above, func(filter string) bool { return slices.Contains(d.Nodes, below[filter]) })
}

// placeShared moves what has the names of the first instance of a disk and belongs to both: the nodes above the images are
// of d, which the device uses, and the guard is of its copy, which may have nothing else.
func (d *AttachedDisk) placeShared(first *AttachedDisk) {
	d.Nodes = append(first.above, d.Nodes...)
	g := first.guard
	first.above, first.guard = nil, guard{}
	if len(g.nodes)+len(g.fdsets) > 0 {
		d.Copy = &AttachedDisk{Target: d.Target, Instance: blockgraph.OtherInstance(d.Instance), Nodes: g.nodes, FDSets: g.fdsets}
	}
}

// Disks returns luksplug's disks in the VM, sorted by target, with what the host has for
// them. It includes disks that have only files or processes on the host.
func (s *State) Disks() []*AttachedDisk {
	instances := byInstance{}
	s.addVM(instances)
	s.addAdopted(instances)
	for instance, handed := range s.Host.HandedOver {
		if d, _ := instances.of(blockgraph.Name(instance, blockgraph.RoleDevice)); d != nil {
			d.Daemon, d.Helper, d.Files = handed.Daemon, handed.Helper, handed.Files
		}
	}
	for instance, n := range s.Host.Notes {
		if d := instances[instance]; d != nil {
			d.addNote(n)
		}
	}
	uses := s.uses()
	out := instances.joined(uses, s.Below)
	slices.SortFunc(out, func(a, b *AttachedDisk) int { return strings.Compare(a.Target, b.Target) })
	for _, d := range out {
		s.complete(d, uses)
	}
	return out
}

// use is the first drive of a node, with the node.
type use struct {
	order int // of the drive among all
	drive Drive
	node  *Node // nil for a node that QEMU has not listed
}

// uses returns the drives by the names of their nodes. A QEMU may list any number of nodes and drives, so no
// search for one of them may be in a loop over the others.
func (s *State) uses() map[string]use {
	nodes := make(map[string]*Node, len(s.Nodes))
	for i := range s.Nodes {
		nodes[s.Nodes[i].Name] = &s.Nodes[i]
	}
	out := make(map[string]use, len(s.Drives))
	for i, d := range s.Drives {
		if _, twice := out[d.Node]; !twice {
			out[d.Node] = use{i, d, nodes[d.Node]}
		}
	}
	return out
}

// addVM adds luksplug's parts in the VM.
func (s *State) addVM(disks byInstance) {
	for _, n := range s.Nodes {
		if d, role := disks.of(n.Name); d != nil {
			d.addNode(n, role)
		}
	}
	for id := range s.Objects {
		if d, _ := disks.of(id); d != nil {
			d.Objects = append(d.Objects, id)
		}
	}
	for id := range s.Chardevs {
		if d, _ := disks.of(id); d != nil {
			d.Chardevs = append(d.Chardevs, id)
		}
	}
	for id := range s.Devices {
		if _, role, ok := blockgraph.ParseName(id); ok && role == blockgraph.RoleDevice {
			d, _ := disks.of(id)
			d.Device = id
		}
	}
	for _, id := range s.IdleControllers {
		d, _ := disks.of(id)
		d.Controller = id
	}
	for _, f := range s.FDSets {
		for _, opaque := range f.Opaques {
			d, role := disks.of(opaque)
			if d == nil {
				continue
			}
			if role == blockgraph.RoleGuardFDSet {
				d.guard.fdsets = append(d.guard.fdsets, f.ID)
			} else {
				d.FDSets = append(d.FDSets, f.ID)
			}
			break
		}
	}
}

// madeForAttach reports whether a header's storage node is that of an ephemeral header.
func madeForAttach(n Node) bool {
	return strings.HasPrefix(n.File, "/dev/fdset/") || path.Base(n.File) == n.Name
}

// addNode adds a node and the properties that follow from it.
func (d *AttachedDisk) addNode(n Node, role blockgraph.Role) {
	switch {
	case role == blockgraph.RoleGuard:
		d.guard.nodes = append(d.guard.nodes, n.Name)
		return
	case role.AboveImages():
		d.above = append(d.above, n.Name)
		return
	}
	d.Nodes = append(d.Nodes, n.Name)
	switch role {
	case blockgraph.RolePayloadStorage:
		d.Payload = ImageName(n.File)
		if strings.HasPrefix(n.File, "nbd+unix:///"+blockgraph.Export(d.Target)+"?") {
			d.Payload, d.Unlock = "", blockgraph.MethodStorageDaemon
		}
	case blockgraph.RoleHeaderStorage:
		d.Header = ImageName(n.File)
		if madeForAttach(n) {
			d.Header, d.Unlock = "", blockgraph.MethodEphemeralHeader
		}
	default: // of a layer below, which may be the only encrypted layer
		if base, _ := role.Base(); base == blockgraph.RoleHeaderStorage && madeForAttach(n) {
			d.Unlock = blockgraph.MethodEphemeralHeader
		}
	}
	if uuid := n.Image.Specific.Data.UUID; role == blockgraph.RoleLUKS && uuid != "" {
		d.UUID = uuid
	}
	if d.Unlock == "" && n.Encrypted {
		d.Unlock = blockgraph.MethodQEMU
	}
}

// complete sets the properties that follow from the device and its node.
func (s *State) complete(d *AttachedDisk, uses map[string]use) {
	slices.Sort(d.Objects)
	if d.Copy != nil {
		slices.Sort(d.Copy.Objects)
	}
	var own []use
	for _, name := range d.Nodes {
		if u, used := uses[name]; used {
			own = append(own, u)
		}
	}
	slices.SortFunc(own, func(a, b use) int { return a.order - b.order })
	for _, u := range own {
		if id := u.drive.device(); id != "" {
			d.Device = id // also a device with a user's alias
			break
		}
	}
	if d.Device == "" {
		return
	}
	d.Driver = s.Devices[d.Device]
	for _, u := range own {
		if u.node != nil {
			d.Size, d.ReadOnly = u.node.Image.VirtualSize, u.node.ReadOnly
		}
	}
}

// Disk returns luksplug's disk at target, nil for none.
func (s *State) Disk(target string) *AttachedDisk {
	for _, d := range s.Disks() {
		if d.Target == target {
			return d
		}
	}
	return nil
}

// Instance returns the parts of an instance, nil for none.
func (s *State) Instance(instance string) *AttachedDisk {
	switch d := s.Disk(blockgraph.TargetOf(instance)); {
	case d == nil:
	case d.Instance == instance:
		return d
	case d.Copy != nil && d.Copy.Instance == instance:
		return d.Copy
	}
	return nil
}

// Instances returns the instances of which the VM or the host has a part.
func (s *State) Instances() map[string]bool {
	out := map[string]bool{}
	for _, d := range s.Disks() {
		out[d.Instance] = true
		if d.Copy != nil {
			out[d.Copy.Instance] = true
		}
	}
	return out
}

// addNote adds the properties that QEMU does not know. A note with another volume belongs
// to an earlier disk with the same target.
func (d *AttachedDisk) addNote(n rundir.Note) {
	if n.Method != d.Unlock || d.UUID != "" && n.UUID != d.UUID {
		return
	}
	d.Header, d.Kept, d.Recovery = n.Header, n.Kept, n.Recovery
	if d.Payload == "" {
		d.Payload = n.Payload
	}
	if d.UUID == "" {
		d.UUID = n.UUID
	}
}

// Top returns the node that the disk's device uses, nil for none: the topmost, of which others are the children.
func (s *State) Top(d *AttachedDisk) *Node {
	if d.Device == "" {
		return nil
	}
	for _, drive := range s.Drives {
		if slices.Contains(d.Nodes, drive.Node) && drive.device() == d.Device {
			return s.Node(drive.Node)
		}
	}
	return nil
}

// Storage returns the node by which QEMU reads the payload's file, nil for none.
func (s *State) Storage(d *AttachedDisk) *Node {
	for _, name := range d.Nodes {
		if _, role, ours := blockgraph.ParseName(name); ours && role == blockgraph.RolePayloadStorage {
			return s.Node(name)
		}
	}
	note, adopted := s.Host.Notes[d.Instance]
	if !adopted || note.Adopted == nil {
		return nil
	}
	for i := range s.Nodes {
		if a, is := s.adoptedNode(note, s.Nodes[i]); is && a.Role == blockgraph.RolePayloadStorage {
			return &s.Nodes[i]
		}
	}
	return nil
}
