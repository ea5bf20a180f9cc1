package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/qmp"
)

// State is what exists in a VM, as far as disks are concerned.
type State struct {
	// Nodes are the block nodes, the newest first.
	Nodes []Node
	// Objects are the ids of the user-creatable objects with their types.
	Objects map[string]string
	// Devices are the ids of the devices that have one, with their types.
	Devices map[string]string
	// Drives are the devices that read and write a block node.
	Drives []Drive
	// FDSets are the sets of passed file descriptors.
	FDSets []FDSet
	// Chardevs maps the ids of the character devices to QEMU's descriptions of their
	// endpoints.
	Chardevs map[string]string
	// Below are the first nodes below throttle filters and copy-on-read nodes, by the names of these: known only where a disk
	// has such nodes and images of two instances, so that they show which ones its device uses.
	Below map[string]string
	// IdleControllers are the SCSI controllers that were added for a disk and have no disk
	// left.
	IdleControllers []string

	// Host is what the host has for the VM's disks; nothing for a VM on another machine.
	Host rundir.Contents
}

// Node is a block node (query-named-block-nodes).
type Node struct {
	Name     string `json:"node-name"`
	Driver   string `json:"drv"`
	File     string `json:"file"`
	ReadOnly bool   `json:"ro"`
	// Encrypted is true for the node of a volume, and for nodes above it.
	Encrypted bool `json:"encrypted"`
	// BackingDepth is the number of backing files below the node that QEMU has open, of
	// [Chains]; 0 otherwise.
	BackingDepth int `json:"backing_file_depth"`
	Cache        struct {
		Direct  bool `json:"direct"`
		NoFlush bool `json:"no-flush"`
	} `json:"cache"`
	Image struct {
		VirtualSize int64 `json:"virtual-size"`
		// Backing is what the image names as its backing file.
		Backing       string `json:"backing-filename"`
		BackingFormat string `json:"backing-filename-format"`
		// Specific has the properties of nodes of certain drivers.
		Specific struct {
			Data struct {
				UUID string `json:"uuid"` // of a LUKS volume
				// Encrypt is the encryption inside of a qcow2 image.
				Encrypt struct {
					Format string `json:"format"` // luks or aes, "" for none
					UUID   string `json:"uuid"`   // of a LUKS volume
				} `json:"encrypt"`
				// DataFile is what a qcow2 image names as its data file; Raw is set only if
				// QEMU has opened one.
				DataFile string `json:"data-file"`
				Raw      *bool  `json:"data-file-raw"`
			} `json:"data"`
		} `json:"format-specific"`
	} `json:"image"`
}

// Drive is the use of a node by a device (query-block).
type Drive struct {
	// Path is the QOM path of the device, or of the part of it that reads the node; or the
	// device's id, if that part is the device itself.
	Path string
	// Node is the node's name.
	Node string

	// Throttling are the limits of the device.
	Throttling Throttling
}

// FDSet is a set of file descriptors (query-fdsets).
type FDSet struct {
	ID int64
	// Opaques are the names that came with the descriptors; none for a set that is listed
	// only because a node opened from it still exists.
	Opaques []string
}

// QueryNodes queries all nodes. QEMU has no query for one node.
var QueryNodes = qmp.Command{Execute: "query-named-block-nodes", Arguments: qmp.Object{{Name: "flat", Value: true}}}

// Nodes queries the block nodes only.
func Nodes(ctx context.Context, q monitor.Querier) (*State, error) {
	nodes, err := monitor.Get[[]Node](ctx, q, QueryNodes)
	return &State{Nodes: nodes}, err
}

// Chains is Nodes with the depths of the backing chains, which takes QEMU longer.
func Chains(ctx context.Context, q monitor.Querier) (*State, error) {
	nodes, err := monitor.Get[[]Node](ctx, q, qmp.Command{Execute: QueryNodes.Execute})
	return &State{Nodes: nodes}, err
}

// Read queries what exists in a VM. It sends the queries at once and changes nothing.
func Read(ctx context.Context, q monitor.Querier) (*State, error) {
	commands := []qmp.Command{
		QueryNodes, monitor.QOMList("/objects"), monitor.QOMList("/machine/peripheral"),
		{Execute: "query-block"}, {Execute: "query-fdsets"}, {Execute: "query-chardev"},
	}
	values, err := q.Query(ctx, commands...)
	if err != nil {
		return nil, err
	}
	s := &State{Chardevs: map[string]string{}}
	var objects, devices properties
	var blocks []block
	var sets []fdset
	var chardevs []struct{ Label, Filename string }
	for i, into := range []any{&s.Nodes, &objects, &devices, &blocks, &sets, &chardevs} {
		if err := monitor.Decode(values[i], into, commands[i]); err != nil {
			return nil, err
		}
	}
	s.Objects, s.Devices = objects.children(), devices.children()
	for _, b := range blocks {
		if b.Inserted.Node != "" && b.Path != "" {
			s.Drives = append(s.Drives, Drive{Path: b.Path, Node: b.Inserted.Node, Throttling: b.Inserted.Throttling})
		}
	}
	for _, set := range sets {
		f := FDSet{ID: set.ID}
		for _, fd := range set.FDs {
			f.Opaques = append(f.Opaques, fd.Opaque)
		}
		s.FDSets = append(s.FDSets, f)
	}
	for _, c := range chardevs {
		s.Chardevs[c.Label] = c.Filename
	}
	if s.Below, err = below(ctx, q, s.undecided()); err != nil {
		return nil, err
	}
	s.IdleControllers, err = idleControllers(ctx, q, s.Devices)
	return s, err
}

// block is BlockInfo of QEMU's qapi/block-core.json.
type block struct {
	Path     string `json:"qdev"`
	Inserted Medium `json:"inserted"`
}

// fdset is FdsetInfo of QEMU's qapi/misc.json.
type fdset struct {
	ID  int64 `json:"fdset-id"`
	FDs []struct {
		Opaque string `json:"opaque"`
	} `json:"fds"`
}

// properties is the answer to qom-list.
type properties []struct{ Name, Type string }

// children returns the children of a QOM path with their types.
func (p properties) children() map[string]string {
	out := map[string]string{}
	for _, property := range p {
		if child, ok := strings.CutPrefix(property.Type, "child<"); ok {
			out[property.Name] = strings.TrimSuffix(child, ">")
		}
	}
	return out
}

// idleControllers returns luksplug's controllers without disks. A controller that was
// added for one disk may serve later ones: it stays until the last of them is gone.
func idleControllers(ctx context.Context, q monitor.Querier, devices map[string]string) ([]string, error) {
	var idle []string
	for id, kind := range devices {
		if _, role, ok := blockgraph.ParseName(id); !ok || role != blockgraph.RoleController {
			continue
		}
		units, err := scsiUnits(ctx, q, scsiBus(id, kind))
		if err != nil {
			return nil, fmt.Errorf("query SCSI controller %s: %w", id, err)
		}
		if len(units) == 0 {
			idle = append(idle, id)
		}
	}
	return idle, nil
}

// scsiBus returns the QOM path of the bus of a virtio-scsi controller of this type.
func scsiBus(controller, kind string) string {
	if kind == "virtio-scsi-device" { // in a slot of virtio-mmio, without a device around it
		return Peripheral + controller + "/" + controller + ".0"
	}
	return Peripheral + controller + "/virtio-backend/" + controller + ".0"
}

// Node returns the node with that name, nil if there is none.
func (s *State) Node(name string) *Node {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Nodes[i]
}

// Peripheral is the QOM path of the devices that have an id.
const Peripheral = "/machine/peripheral/"

// UnnamedDevices returns the QOM paths of the devices of a type that have no id.
func UnnamedDevices(ctx context.Context, q monitor.Querier, kind string) ([]string, error) {
	const unnamed = "/machine/peripheral-anon"
	list, err := monitor.Get[properties](ctx, q, monitor.QOMList(unnamed))
	if err != nil {
		return nil, err
	}
	var out []string
	for name, t := range list.children() {
		if t == kind {
			out = append(out, unnamed+"/"+name)
		}
	}
	return out, nil
}

// DeviceOf returns the id of the device that uses the node, "" if there is none.
func (s *State) DeviceOf(node string) string {
	for _, d := range s.Drives {
		if id := d.device(); d.Node == node && id != "" {
			return id
		}
	}
	return ""
}

// device returns the id of the device, "" for a device without one.
func (d Drive) device() string {
	path, isPath := strings.CutPrefix(d.Path, Peripheral)
	if !isPath && strings.HasPrefix(d.Path, "/") {
		return ""
	}
	id, _, _ := strings.Cut(path, "/")
	return id
}

// IsStorage reports whether the node reads a file or device of the host.
func (n *Node) IsStorage() bool {
	return n.Driver == "file" || n.Driver == "host_device" || n.Driver == "host_cdrom"
}

// Owner describes the owner of a node in human-readable form.
func (s *State) Owner(n Node) string {
	if target := s.TargetOf(n); target != "" {
		return "disk " + target + " of this VM"
	}
	return "node " + n.Name + " of this VM"
}

// FreeFDSet returns an unused id for a descriptor set. A set stays listed, empty, for as
// long as a node that was opened from it exists.
func (s *State) FreeFDSet() int64 {
	used := make(map[int64]bool, len(s.FDSets))
	for _, f := range s.FDSets {
		used[f.ID] = true
	}
	id := blockgraph.FirstFDSet
	for used[id] {
		id++
	}
	return id
}
