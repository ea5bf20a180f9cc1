package inventory

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// AttachedDisk is what the VM has of ours for one target.
type AttachedDisk struct {
	// Target is the disk's target, such as "vdb".
	Target string
	// Device is the id of the device that the guest sees, "" for none: what
	// there is then is a leftover of an interrupted run.
	Device string
	// Driver is the device's type, such as "virtio-blk-pci".
	Driver string
	// Nodes are the block nodes, parents before their children.
	Nodes []string
	// Objects are the ids of the objects.
	Objects []string
	// Chardevs are the ids of the character devices.
	Chardevs []string
	// Controller is the id of a SCSI controller that was added for the disk and
	// serves none any more.
	Controller string
	// FDSets are the ids of the descriptor sets.
	FDSets []int64
	// Size is what the guest sees, in bytes; 0 for a leftover.
	Size int64
	// ReadOnly is true where the guest cannot write.
	ReadOnly bool
	// Payload and Header are the paths of the images, as far as they have one.
	// That of an original header is not known to QEMU, and only to the host on
	// which the disk was attached.
	Payload, Header string
	// Unlock is how the volume was opened, "" for a disk without encryption.
	Unlock blockgraph.Method
	// UUID is that of the LUKS volume, "" where QEMU does not know it.
	UUID string
	// Daemon is the process id of the storage daemon that serves the disk, 0
	// for none.
	Daemon int
	// Helper is the process id of the helper of the disk's reservations, 0 for
	// none, or for one that is not luksplug's.
	Helper int
	// Files are the paths of files that were handed over and not yet removed.
	Files []string
	// Given are the paths of images that QEMU's user was given and has given back:
	// only what [VM.Repair] returns has some.
	Given []string
	// Kept is what the caller of the attach has had kept, see [AttachOptions].
	Kept string
}

// Leftover reports whether no device uses what is there.
func (d *AttachedDisk) Leftover() bool { return d.Device == "" }

// Left names everything of the disk, each part with its kind.
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
	return out
}

// byTarget collects what belongs to the same target.
type byTarget map[string]*AttachedDisk

// of returns the disk to which a name belongs, and its role there; nil for a name that
// is not ours.
func (b byTarget) of(name string) (*AttachedDisk, blockgraph.Role) {
	target, role, ok := blockgraph.ParseName(name)
	if !ok {
		return nil, ""
	}
	if b[target] == nil {
		b[target] = &AttachedDisk{Target: target}
	}
	return b[target], role
}

// Disks returns what is ours in the VM and, where it has an entry there or in the VM,
// on the host, sorted by target.
func (s *State) Disks() []*AttachedDisk {
	disks := byTarget{}
	s.addVM(disks)
	for target, handed := range s.Host.HandedOver {
		if d, _ := disks.of(blockgraph.Name(target, blockgraph.RoleDevice)); d != nil {
			d.Daemon, d.Helper, d.Files = handed.Daemon, handed.Helper, handed.Files
		}
	}
	for target, n := range s.Host.Notes {
		if d := disks[target]; d != nil {
			d.addNote(n)
		}
	}
	out := slices.SortedFunc(maps.Values(disks), func(a, b *AttachedDisk) int { return strings.Compare(a.Target, b.Target) })
	for _, d := range out {
		s.complete(d)
	}
	return out
}

// addVM adds what is ours in the VM.
func (s *State) addVM(disks byTarget) {
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
			if d, _ := disks.of(opaque); d != nil {
				d.FDSets = append(d.FDSets, f.ID)
				break
			}
		}
	}
}

// madeForAttach reports whether the storage of a header was made for this attach.
func madeForAttach(n Node) bool {
	return strings.HasPrefix(n.File, "/dev/fdset/") || path.Base(n.File) == n.Name
}

// addNode adds a node and what it tells.
func (d *AttachedDisk) addNode(n Node, role blockgraph.Role) {
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
	default: // of a layer below, which may be the only one that is encrypted
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

// complete fills in what follows from the device and the node that it uses.
func (s *State) complete(d *AttachedDisk) {
	slices.Sort(d.Objects)
	if id := s.DeviceOf(d.Nodes); id != "" {
		d.Device = id // also one with a user's alias
	}
	if d.Device == "" {
		return
	}
	d.Driver = s.Devices[d.Device]
	for _, drive := range s.Drives {
		if n := s.Node(drive.Node); n != nil && slices.Contains(d.Nodes, drive.Node) {
			d.Size, d.ReadOnly = n.Image.VirtualSize, n.ReadOnly
		}
	}
}

// Disk returns what the VM has of ours for target, nil for nothing.
func (s *State) Disk(target string) *AttachedDisk {
	for _, d := range s.Disks() {
		if d.Target == target {
			return d
		}
	}
	return nil
}

// addNote adds what QEMU does not know. A note that speaks of another volume is
// that of another disk, which had the same target.
func (d *AttachedDisk) addNote(n rundir.Note) {
	if n.Method != d.Unlock || d.UUID != "" && n.UUID != d.UUID {
		return
	}
	d.Header, d.Kept = n.Header, n.Kept
	if d.Payload == "" {
		d.Payload = n.Payload
	}
	if d.UUID == "" {
		d.UUID = n.UUID
	}
}
