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
	// Headers are the ephemeral headers that nodes read; none unless they were
	// asked for, see [Unlock].
	Headers []EphemeralHeader
	// Daemon is what a storage daemon outside of the VM has to have, nil where
	// there is none. It has no devices: its top node is exported.
	Daemon *Graph
}

// GraphObject is an argument of object-add.
type GraphObject struct {
	ID string
	// Ref names the secret whose value the object holds; or, where one of
	// the graph's ephemeral headers has this object, the one that unlocks the
	// original header.
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

// Build works out the graph of a disk for a VM whose LUKS volumes are opened as u
// says. The disk is validated first. The errors are [*XMLError],
// [*UnsupportedError] and, where the VM has no room, [*PlacementError].
func Build(d *Disk, m Machine, u Unlock) (*Graph, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b := &builder{disk: d, unlock: u, graph: &Graph{Target: d.Target}}
	build := b.images
	if u.Way == ByDaemon && d.Image.Encryption != nil {
		build = b.external
	}
	top, err := build()
	if err != nil {
		return nil, err
	}
	if err := b.device(top, m); err != nil {
		return nil, err
	}
	return b.graph, nil
}

type builder struct {
	disk   *Disk
	unlock Unlock
	graph  *Graph
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
// An ephemeral header is one more node of the second kind, and takes the place
// of the header in the last two.
//
// A raw image needs no format node: libvirt leaves it out as well, and every
// layer costs a little on each request.
func (b *builder) images() (string, error) {
	image := b.disk.Image
	enc := image.Encryption
	luks := enc != nil && (image.Format == FormatRaw || enc.Header != nil)

	var header, secret string
	switch {
	case luks && b.unlock.Way == ByHeader:
		secret = b.secret(enc.Secret, oneTime)
		header = b.ephemeral(enc.original(image), secret)
	case enc != nil && enc.Header != nil:
		var err error
		if header, err = b.header(*enc.Header); err != nil {
			return "", err
		}
	}
	if enc != nil && secret == "" {
		secret = b.secret(enc.Secret, asItIs)
	}
	hasFormat := image.Format != FormatRaw
	top, err := b.storage(image.Source, RolePayloadStorage, layer{top: !luks && !hasFormat, payload: true})
	if err != nil {
		return "", err
	}
	if hasFormat {
		own := secret
		if luks {
			own = ""
		}
		if top, err = b.format(image, top, RolePayloadFormat, own, layer{top: !luks, payload: true}); err != nil {
			return "", err
		}
	}
	if luks {
		top = b.luks(header, top, secret)
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

// original returns the image that holds the LUKS header of image.
func (e *Encryption) original(image Image) Image {
	if e.Header != nil {
		return *e.Header
	}
	return image
}

// passphraseUse says what a secret object holds of the secret.
type passphraseUse bool

const (
	asItIs  passphraseUse = false // the secret itself
	oneTime passphraseUse = true  // a passphrase of an ephemeral header that the secret unlocked
)

// secret adds a secret object and returns its id. Its data are base64 on the
// wire: a QMP string must be UTF-8, a passphrase need not be.
func (b *builder) secret(ref secrets.Reference, use passphraseUse) string {
	id := Name(b.disk.Target, RoleSecret)
	data := SecretData{Ref: ref, Object: id, OneTime: use == oneTime}
	b.graph.Objects = append(b.graph.Objects, GraphObject{ID: id, Ref: ref, Options: Object{
		{"qom-type", "secret"}, {"id", id}, {"data", data}, {"format", "base64"}}})
	return id
}

func (b *builder) add(role Role, options Object, children []Child, secretIDs ...string) string {
	name := Name(b.disk.Target, role)
	b.graph.Nodes = append(b.graph.Nodes, Node{Name: name, Role: role, Secrets: secretIDs, Children: children, Options: options})
	return name
}
