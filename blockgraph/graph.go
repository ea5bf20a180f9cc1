package blockgraph

import (
	"slices"

	"github.com/luksplug/luksplug/secrets"
)

// Graph holds the objects, block nodes and devices that QEMU needs for a disk, each list
// in the order of creation.
type Graph struct {
	Target   string        // the disk's target, such as "vdb"
	Objects  []GraphObject // user-creatable objects
	Nodes    []Node        // children before their parents; the device reads and writes the last one
	Devices  []Device      // a controller that is added for the disk, if any, and the disk's own device last
	Chardevs []Chardev     // connections that the device uses in place of nodes
	Files    []PassedFile  // devices of the host that are passed as descriptors
	// Throttling holds the arguments of block_set_io_throttle, for which the disk's device
	// must exist; nil for no limits.
	Throttling Object
	Globals    []string          // -global options for a QEMU that is about to start; they are no steps of a plan
	Warnings   []string          // differences between the disk and its XML
	Headers    []EphemeralHeader // the ephemeral headers that nodes read, see [Unlock]
	Guard      *Guard            // keeps the VM from being migrated; nil for a disk that is not the target of a copy
	Overlay    *Overlay          // receives the writes to a transient disk, nil for other disks
	// Daemon is the graph of a storage daemon outside of the VM, nil for none. It has no
	// devices: its top node is exported.
	Daemon *Graph
}

// GraphObject is an argument of object-add.
type GraphObject struct {
	ID string
	// Ref names the secret whose value the object holds, or, for an object of an
	// ephemeral header, the secret that unlocks the original header. It is empty for an
	// object without a secret, and for a value from the XML, see [SecretData].
	Ref     secrets.Reference
	Options Object
	Secrets []string // the ids of the objects that are only read while the object is made
}

// Secret returns the secret that the object holds; ok is false for an object without one.
func (o GraphObject) Secret() (data SecretData, ok bool) {
	data, ok = o.Options.Get("data").(SecretData)
	return data, ok
}

// Node is an argument of blockdev-add.
type Node struct {
	Name     string
	Role     Role
	Secrets  []string // the ids of the objects that are only read while the node opens
	Objects  []string // the ids of the objects that are in use as long as the node exists
	Children []Child
	Options  Object
	From     string // describes the source of a protocol node; "" for other nodes
}

// Child is a node below another: Member of the upper one's options refers to it, such as
// "file", "header", "data-file" or "backing".
type Child struct{ Member, Name string }

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

// GuardOf returns the guard if the node is its own, nil otherwise.
func (g *Graph) GuardOf(node string) *Guard {
	if g.Guard != nil && g.Guard.Node == node {
		return g.Guard
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
