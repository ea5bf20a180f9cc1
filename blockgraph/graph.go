package blockgraph

import "github.com/luksplug/luksplug/secrets"

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
}

// GraphObject is an argument of object-add.
type GraphObject struct {
	ID string
	// Ref names the secret whose value the object holds.
	Ref     secrets.Reference
	Options Object
}

// Node is an argument of blockdev-add.
type Node struct {
	Name string
	Role Role
	// Secrets are the ids of the objects that are read while the node opens,
	// and not after.
	Secrets []string
	// Children are the nodes below, with the member that refers to each.
	Children []Child
	Options  Object
}

// Child is an edge from a node to a node below it.
type Child struct {
	Member string // "file", "header"
	Name   string
}

// Device is an argument of device_add.
type Device struct {
	ID      string
	Role    Role
	Options Object
}

// Top returns the node that the device reads and writes.
func (g *Graph) Top() Node { return g.Nodes[len(g.Nodes)-1] }

// Device returns the disk's own device.
func (g *Graph) Device() Device { return g.Devices[len(g.Devices)-1] }

// Build works out the graph of a disk for a VM. The disk is validated first.
// The errors are [*XMLError], [*UnsupportedError] and, where the VM has no
// room, [*PlacementError].
func Build(d *Disk, m Machine) (*Graph, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b := &builder{disk: d, graph: &Graph{Target: d.Target}}
	top, err := b.images()
	if err != nil {
		return nil, err
	}
	if err := b.device(top, m); err != nil {
		return nil, err
	}
	return b.graph, nil
}

type builder struct {
	disk  *Disk
	graph *Graph
}

// images adds the nodes of the disk, bottom up, and returns the top node's
// name.
//
//	raw                     payload-storage
//	raw, LUKS inside        payload-storage, luks
//	qcow2                   payload-storage, payload-format
//	qcow2, LUKS inside      payload-storage, payload-format with encrypt
//	raw, detached header    header, payload-storage, luks
//	qcow2, detached header  header, payload-storage, payload-format, luks
//
// A raw image needs no format node: libvirt leaves it out as well, and every
// layer costs a little on each request.
func (b *builder) images() (string, error) {
	image := b.disk.Image
	enc := image.Encryption
	luks := enc != nil && (image.Format == FormatRaw || enc.Header != nil)

	var header string
	if enc != nil && enc.Header != nil {
		var err error
		if header, err = b.header(*enc.Header); err != nil {
			return "", err
		}
	}
	hasFormat := image.Format != FormatRaw
	top, err := b.storage(image.Source, RolePayloadStorage, layer{top: !luks && !hasFormat, payload: true})
	if err != nil {
		return "", err
	}
	if hasFormat {
		var secret string
		if enc != nil && !luks {
			secret = b.secret(enc.Secret)
		}
		if top, err = b.format(image, top, RolePayloadFormat, secret, layer{top: !luks, payload: true}); err != nil {
			return "", err
		}
	}
	if luks {
		top = b.luks(header, top, b.secret(enc.Secret))
	}
	return top, nil
}

func (b *builder) header(image Image) (string, error) {
	name, err := b.storage(image.Source, RoleHeaderStorage, layer{})
	if err != nil || image.Format == FormatRaw {
		return name, err
	}
	return b.format(image, name, RoleHeaderFormat, "", layer{})
}

// secret adds a secret object and returns its id. Its data are base64 on the
// wire: a QMP string must be UTF-8, a passphrase need not be.
func (b *builder) secret(ref secrets.Reference) string {
	id := Name(b.disk.Target, RoleSecret)
	b.graph.Objects = append(b.graph.Objects, GraphObject{ID: id, Ref: ref, Options: Object{
		{"qom-type", "secret"}, {"id", id}, {"data", SecretData{Ref: ref}}, {"format", "base64"}}})
	return id
}

func (b *builder) add(role Role, options Object, children []Child, secretIDs ...string) string {
	name := Name(b.disk.Target, role)
	b.graph.Nodes = append(b.graph.Nodes, Node{Name: name, Role: role, Secrets: secretIDs, Children: children, Options: options})
	return name
}
