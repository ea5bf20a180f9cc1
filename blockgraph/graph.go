package blockgraph

import (
	"slices"

	"github.com/luksplug/luksplug/secrets"
)

// Graph is what QEMU needs to have for a disk: objects, block nodes and
// devices, each list in the order in which they can be made.
type Graph struct {
	// Target is the disk's target, such as "vdb".
	Target string
	// Objects are the user-creatable objects.
	Objects []GraphObject
	// Nodes are the block nodes, children before their parents. The last one
	// is what the device reads and writes.
	Nodes []Node
	// Devices are the devices: a controller that the disk brings along, if
	// any, and the disk's own device last.
	Devices []Device
	// Chardevs are the connections that the device uses in place of nodes.
	Chardevs []Chardev
	// Files are the devices of the host that are passed as descriptors.
	Files []PassedFile
	// Throttling are the arguments of block_set_io_throttle, once the disk's device
	// is there; nil for no limits.
	Throttling Object
	// Globals are settings, as -global takes them, that only a QEMU which is about
	// to start can be given: they are not among the steps of a plan.
	Globals []string
	// Warnings say where the disk is not quite what its XML says.
	Warnings []string
	// Headers are the ephemeral headers that nodes read; none unless they were
	// asked for, see [Unlock].
	Headers []EphemeralHeader
	// Overlay is the file that takes what the guest writes to a transient disk, nil
	// for other disks.
	Overlay *Overlay
	// Daemon is what a storage daemon outside of the VM has to have, nil where
	// there is none. It has no devices: its top node is exported.
	Daemon *Graph
}

// GraphObject is an argument of object-add.
type GraphObject struct {
	ID string
	// Ref names the secret whose value the object holds; or, where one of
	// the graph's ephemeral headers has this object, the one that unlocks the
	// original header. It is empty for an object that holds no secret, and for
	// one whose value the XML has itself, see [SecretData].
	Ref     secrets.Reference
	Options Object
	// Secrets are the ids of the objects that are read while the object is made,
	// and not after.
	Secrets []string
}

// Secret returns the secret that the object holds; ok is false for an object of
// another kind.
func (o GraphObject) Secret() (data SecretData, ok bool) {
	data, ok = o.Options.Get("data").(SecretData)
	return data, ok
}

// Node is an argument of blockdev-add.
type Node struct {
	Name string
	Role Role
	// Secrets are the ids of the objects that are read while the node opens,
	// and not after.
	Secrets []string
	// Objects are the ids of the objects that are in use for as long as the node
	// is there.
	Objects []string
	// Children are the nodes below, with the member that refers to each.
	Children []Child
	Options  Object
	// From describes where a protocol node has its bytes from; "" for
	// other nodes.
	From string
}

// Child is an edge from a node to a node below it.
type Child struct {
	Member string // "file", "header", "data-file", "backing"
	Name   string
}

// Device is an argument of device_add.
type Device struct {
	ID      string
	Role    Role
	Options Object
}

// Top returns the node that the device reads and writes. It is empty for a drive
// without a medium, and for a device that has its own server.
func (g *Graph) Top() Node {
	if len(g.Nodes) == 0 {
		return Node{}
	}
	return g.Nodes[len(g.Nodes)-1]
}

// Device returns the disk's own device.
func (g *Graph) Device() Device { return g.Devices[len(g.Devices)-1] }

// HeaderOf returns the ephemeral header that the node reads, nil for none.
func (g *Graph) HeaderOf(node string) *EphemeralHeader {
	for i := range g.Headers {
		if g.Headers[i].Node == node {
			return &g.Headers[i]
		}
	}
	return nil
}

// FileOf returns the device of the host that the node is opened from, nil for none.
func (g *Graph) FileOf(node string) *PassedFile {
	for i := range g.Files {
		if g.Files[i].Node == node {
			return &g.Files[i]
		}
	}
	return nil
}

// OverlayOf returns the overlay that the node is opened from, nil for none.
func (g *Graph) OverlayOf(node string) *Overlay {
	if g.Overlay != nil && g.Overlay.Node == node {
		return g.Overlay
	}
	return nil
}

// ObjectByID returns the object with this id, which a node or another object of
// the graph names.
func (g *Graph) ObjectByID(id string) GraphObject {
	i := slices.IndexFunc(g.Objects, func(o GraphObject) bool { return o.ID == id })
	return g.Objects[i] // Build adds the object before the node that names it
}
