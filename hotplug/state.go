package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
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
	// Chardevs are the ids of the character devices, with QEMU's words for where
	// each leads.
	Chardevs map[string]string
	// IdleControllers are the SCSI controllers that were added for a disk and
	// have no disk any more.
	IdleControllers []string

	notes      map[string]note       // of this VM, by target
	handedOver map[string]handedOver // by target
}

// Node is a block node (query-named-block-nodes).
type Node struct {
	Name     string `json:"node-name"`
	Driver   string `json:"drv"`
	File     string `json:"file"`
	ReadOnly bool   `json:"ro"`
	// Encrypted is true for the node of a volume, and for those above it.
	Encrypted bool `json:"encrypted"`
	Cache     struct {
		Direct  bool `json:"direct"`
		NoFlush bool `json:"no-flush"`
	} `json:"cache"`
	Image struct {
		VirtualSize int64 `json:"virtual-size"`
		// Specific is what only nodes of a certain driver have.
		Specific struct {
			Data struct {
				UUID string `json:"uuid"` // of a LUKS volume
			} `json:"data"`
		} `json:"format-specific"`
	} `json:"image"`
}

// Drive says which device uses which node (query-block).
type Drive struct {
	// Path is the QOM path of the device, or of the part of it that reads the
	// node; or the device's id, where that part is the device itself.
	Path string
	// Node is the node's name.
	Node string

	throttling throttling
}

// FDSet is a set of file descriptors (query-fdsets).
type FDSet struct {
	ID int64
	// Opaques are the names that came with the descriptors; none for a set
	// that is listed only because a node is open that was opened from it.
	Opaques []string
}

// queryNodes asks for all nodes. There is no way to ask for one.
var queryNodes = qmp.Command{Execute: "query-named-block-nodes", Arguments: qmp.Object{{Name: "flat", Value: true}}}

// State asks the VM what exists. The queries are sent at once and change
// nothing.
func (vm *VM) State(ctx context.Context) (*State, error) {
	commands := []qmp.Command{
		queryNodes,
		qomList("/objects"),
		qomList("/machine/peripheral"),
		{Execute: "query-block"},
		{Execute: "query-fdsets"},
		{Execute: "query-chardev"},
	}
	results, err := vm.queryAll(ctx, commands...)
	if err != nil {
		return nil, err
	}
	s := &State{}
	if err := decode(results[0], &s.Nodes, commands[0]); err != nil {
		return nil, err
	}
	if s.Objects, err = qomChildren(results[1], commands[1]); err != nil {
		return nil, err
	}
	if s.Devices, err = qomChildren(results[2], commands[2]); err != nil {
		return nil, err
	}
	var blocks []struct {
		Path     string `json:"qdev"`
		Inserted medium `json:"inserted"`
	}
	if err := decode(results[3], &blocks, commands[3]); err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if b.Inserted.node != "" && b.Path != "" {
			s.Drives = append(s.Drives, Drive{Path: b.Path, Node: b.Inserted.node, throttling: b.Inserted.throttling})
		}
	}
	var sets []struct {
		ID  int64 `json:"fdset-id"`
		FDs []struct {
			Opaque string `json:"opaque"`
		} `json:"fds"`
	}
	if err := decode(results[4], &sets, commands[4]); err != nil {
		return nil, err
	}
	for _, set := range sets {
		f := FDSet{ID: set.ID}
		for _, fd := range set.FDs {
			f.Opaques = append(f.Opaques, fd.Opaque)
		}
		s.FDSets = append(s.FDSets, f)
	}
	var chardevs []struct{ Label, Filename string }
	if err := decode(results[5], &chardevs, commands[5]); err != nil {
		return nil, err
	}
	s.Chardevs = make(map[string]string, len(chardevs))
	for _, c := range chardevs {
		s.Chardevs[c.Label] = c.Filename
	}
	if s.IdleControllers, err = vm.idleControllers(ctx, s.Devices); err != nil {
		return nil, err
	}
	if vm.filesAreLocal() {
		err = vm.readRunDir(ctx, s)
	}
	return s, err
}

// idleControllers looks at the controllers of ours. The one that a disk brought
// may serve others that came later: it is in nobody's way until the last of
// them is gone.
func (vm *VM) idleControllers(ctx context.Context, devices map[string]string) ([]string, error) {
	var idle []string
	for id := range devices {
		if _, role, ok := blockgraph.ParseName(id); !ok || role != blockgraph.RoleController {
			continue
		}
		units, err := vm.scsiUnits(ctx, scsiBus(id))
		if err != nil {
			return nil, fmt.Errorf("look at SCSI controller %s: %w", id, err)
		}
		if len(units) == 0 {
			idle = append(idle, id)
		}
	}
	return idle, nil
}

// scsiBus returns the QOM path of the bus of a virtio-scsi controller.
func scsiBus(controller string) string {
	return peripheral + controller + "/virtio-backend/" + controller + ".0"
}

// queryAll sends commands that change nothing at once and returns their
// values; the first error ends it. A lost connection is opened again once.
func (vm *VM) queryAll(ctx context.Context, commands ...qmp.Command) ([]json.RawMessage, error) {
	for attempt := 0; ; attempt++ {
		values, failed := valuesOf(vm.client.ExecuteAll(ctx, commands...))
		if failed == nil {
			return values, nil
		}
		if errors.Is(failed, context.DeadlineExceeded) {
			return nil, &NoAnswerError{Err: failed}
		}
		if attempt > 0 || ctx.Err() != nil || !lost(failed) {
			return nil, failed
		}
		if err := vm.reconnect(ctx); err != nil {
			return nil, err
		}
	}
}

// valuesOf are the values of results, and the first error among them.
func valuesOf(results []qmp.Result) ([]json.RawMessage, error) {
	values := make([]json.RawMessage, len(results))
	var failed error
	for i, r := range results {
		if r.Err != nil && failed == nil {
			failed = r.Err
		}
		values[i] = r.Value
	}
	return values, failed
}

func qomList(path string) qmp.Command {
	return qmp.Command{Execute: "qom-list", Arguments: qmp.Object{{Name: "path", Value: path}}}
}

func qomGet(path, property string) qmp.Command {
	return qmp.Command{Execute: "qom-get", Arguments: qmp.Object{{Name: "path", Value: path}, {Name: "property", Value: property}}}
}

func decode(value []byte, into any, cmd qmp.Command) error {
	if err := json.Unmarshal(value, into); err != nil {
		return fmt.Errorf("the answer to %s is not what QEMU documents: %w", cmd.Execute, err)
	}
	return nil
}

// qomChildren returns the children of a QOM path with their types.
func qomChildren(value []byte, cmd qmp.Command) (map[string]string, error) {
	properties, err := qomProperties(value, cmd)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(properties))
	for name, kind := range properties {
		if child, ok := strings.CutPrefix(kind, "child<"); ok {
			out[name] = strings.TrimSuffix(child, ">")
		}
	}
	return out, nil
}

func qomProperties(value []byte, cmd qmp.Command) (map[string]string, error) {
	var entries []struct{ Name, Type string }
	if err := decode(value, &entries, cmd); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(entries))
	for _, e := range entries {
		out[e.Name] = e.Type
	}
	return out, nil
}

// Node returns the node of that name, nil when there is none.
func (s *State) Node(name string) *Node {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Nodes[i]
}

const peripheral = "/machine/peripheral/"

// deviceOf returns the id of the device that uses one of the nodes, "" for
// none.
func (s *State) deviceOf(nodes []string) string {
	for _, d := range s.Drives {
		if !slices.Contains(nodes, d.Node) {
			continue
		}
		path, isPath := strings.CutPrefix(d.Path, peripheral)
		if isPath || !strings.HasPrefix(d.Path, "/") {
			id, _, _ := strings.Cut(path, "/")
			return id
		}
	}
	return ""
}

// Holding is what the VM has of ours for one target.
type Holding struct {
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
	// ReadOnly tells whether the guest can write.
	ReadOnly bool
	// Payload and Header are the paths of the images, as far as they have one.
	// That of an original header is not known to QEMU, and only to the host on
	// which the disk was attached.
	Payload, Header string
	// Unlock is how the volume was opened, "" for a disk without encryption.
	Unlock blockgraph.Way
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

// Leftover tells whether no device uses what is there.
func (h *Holding) Leftover() bool { return h.Device == "" }

// Left names everything of a holding, each part with its kind.
func (h *Holding) Left() []string {
	var out []string
	if h.Device != "" {
		out = append(out, "device "+h.Device)
	}
	if h.Controller != "" {
		out = append(out, "controller "+h.Controller)
	}
	for _, n := range h.Nodes {
		out = append(out, "node "+n)
	}
	for _, o := range h.Objects {
		out = append(out, "object "+o)
	}
	for _, id := range h.Chardevs {
		out = append(out, "chardev "+id)
	}
	for _, id := range h.FDSets {
		out = append(out, fmt.Sprintf("fdset %d", id))
	}
	if h.Daemon != 0 {
		out = append(out, fmt.Sprintf("storage daemon %d", h.Daemon))
	}
	if h.Helper != 0 {
		out = append(out, fmt.Sprintf("reservation helper %d", h.Helper))
	}
	for _, path := range h.Files {
		out = append(out, "file "+path)
	}
	for _, path := range h.Given {
		out = append(out, "QEMU's user as the owner of "+path)
	}
	return out
}

// Holdings returns what is ours in the VM, sorted by target.
func (s *State) Holdings() []*Holding {
	byTarget := map[string]*Holding{}
	get := func(name string) (*Holding, blockgraph.Role) {
		target, role, ok := blockgraph.ParseName(name)
		if !ok {
			return nil, ""
		}
		if byTarget[target] == nil {
			byTarget[target] = &Holding{Target: target}
		}
		return byTarget[target], role
	}
	for _, n := range s.Nodes {
		if h, role := get(n.Name); h != nil {
			h.addNode(n, role)
		}
	}
	for id := range s.Objects {
		if h, _ := get(id); h != nil {
			h.Objects = append(h.Objects, id)
		}
	}
	for id := range s.Chardevs {
		if h, _ := get(id); h != nil {
			h.Chardevs = append(h.Chardevs, id)
		}
	}
	for id := range s.Devices {
		if _, role, ok := blockgraph.ParseName(id); ok && role == blockgraph.RoleDevice {
			h, _ := get(id)
			h.Device = id
		}
	}
	for _, id := range s.IdleControllers {
		h, _ := get(id)
		h.Controller = id
	}
	for _, f := range s.FDSets {
		for _, opaque := range f.Opaques {
			if h, _ := get(opaque); h != nil {
				h.FDSets = append(h.FDSets, f.ID)
				break
			}
		}
	}
	for target, handed := range s.handedOver {
		if h, _ := get(blockgraph.Name(target, blockgraph.RoleDevice)); h != nil {
			h.Daemon, h.Helper, h.Files = handed.daemon, handed.helper, handed.files
		}
	}
	for target, n := range s.notes {
		if h := byTarget[target]; h != nil {
			h.addNote(n)
		}
	}
	out := make([]*Holding, 0, len(byTarget))
	for _, h := range byTarget {
		s.complete(h)
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b *Holding) int { return strings.Compare(a.Target, b.Target) })
	return out
}

// madeForAttach tells of the storage of a header whether it was made for this disk.
func madeForAttach(n Node) bool {
	return strings.HasPrefix(n.File, "/dev/fdset/") || path.Base(n.File) == n.Name
}

// addNode adds a node and what it tells.
func (h *Holding) addNode(n Node, role blockgraph.Role) {
	h.Nodes = append(h.Nodes, n.Name)
	switch role {
	case blockgraph.RolePayloadStorage:
		h.Payload = imageName(n.File)
		if strings.HasPrefix(n.File, "nbd+unix:///"+blockgraph.Export(h.Target)+"?") {
			h.Payload, h.Unlock = "", blockgraph.ByDaemon
		}
	case blockgraph.RoleHeaderStorage:
		h.Header = imageName(n.File)
		if madeForAttach(n) {
			h.Header, h.Unlock = "", blockgraph.ByHeader
		}
	default: // of a layer below, which may be the only one that is encrypted
		if base, _ := role.Base(); base == blockgraph.RoleHeaderStorage && madeForAttach(n) {
			h.Unlock = blockgraph.ByHeader
		}
	}
	if uuid := n.Image.Specific.Data.UUID; role == blockgraph.RoleLUKS && uuid != "" {
		h.UUID = uuid
	}
	if h.Unlock == "" && n.Encrypted {
		h.Unlock = blockgraph.ByQEMU
	}
}

// complete fills in what follows from the device and the node that it uses.
func (s *State) complete(h *Holding) {
	slices.Sort(h.Objects)
	if id := s.deviceOf(h.Nodes); id != "" {
		h.Device = id // also one with a user's alias
	}
	if h.Device == "" {
		return
	}
	h.Driver = s.Devices[h.Device]
	for _, d := range s.Drives {
		if n := s.Node(d.Node); n != nil && slices.Contains(h.Nodes, d.Node) {
			h.Size, h.ReadOnly = n.Image.VirtualSize, n.ReadOnly
		}
	}
}

// Holding returns what the VM has of ours for target, nil for nothing.
func (s *State) Holding(target string) *Holding {
	for _, h := range s.Holdings() {
		if h.Target == target {
			return h
		}
	}
	return nil
}
