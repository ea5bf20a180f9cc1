package blockgraph

import (
	"cmp"
	"strconv"

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

// Build works out the graph of a disk for a VM whose LUKS volumes are opened as u
// says. The disk is validated first. The errors are [*InvalidError],
// [*UnsupportedError] and, where the VM has no room, [*PlacementError].
func Build(d *Disk, m Machine, u Unlock) (*Graph, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b := newBuilder(d, u)
	b.machine = m
	build := b.images
	if u.Method == MethodStorageDaemon && d.Encrypted() {
		build = b.external
	}
	in, err := build()
	if err != nil {
		return nil, err
	}
	if in.node, err = b.filters(in.node, m); err != nil {
		return nil, err
	}
	if err := b.device(in, m); err != nil {
		return nil, err
	}
	return b.graph, nil
}

type builder struct {
	disk    *Disk
	unlock  Unlock
	machine Machine // of the VM; that of a storage daemon is not known
	graph   *Graph
	counts  map[string]int // objects by kind
}

func newBuilder(d *Disk, u Unlock) *builder {
	return &builder{disk: d, unlock: u, graph: &Graph{Target: d.Target}, counts: map[string]int{}}
}

// medium is what the device reads and writes: a node, a connection, or nothing
// for an empty drive.
type medium struct {
	node, chardev string
}

// images adds the nodes of the disk, bottom up.
func (b *builder) images() (medium, error) {
	switch {
	case b.disk.Empty:
		return medium{}, nil
	case b.disk.Image.Source.Kind == SourceVHostUser:
		return medium{chardev: b.vhostUser(b.disk.Image.Source)}, nil
	}
	top, err := b.chain(b.disk.Image, 0)
	if err != nil {
		return medium{}, err
	}
	if b.disk.Transient {
		top = b.overlay(top)
	}
	if b.disk.CopyOnRead {
		top = b.copyOnRead(top)
	}
	return medium{node: top}, nil
}

// objectName returns the name of the next object of a kind.
func (b *builder) objectName(kind string) string {
	n := b.counts[kind]
	b.counts[kind]++
	return Name(b.disk.Target, Role(kind+strconv.Itoa(n)))
}

// secret adds a secret object and returns its id. Its data are base64 on the
// wire: a QMP string must be UTF-8, a secret need not be.
func (b *builder) secret(data SecretData) string {
	id := b.objectName("secret")
	data.Object = id
	b.graph.Objects = append(b.graph.Objects, GraphObject{ID: id, Ref: data.Ref, Options: Object{
		{"qom-type", "secret"}, {"id", id}, {"data", data}, {"format", "base64"}}})
	return id
}

// auth adds a login to a server, under the names that the protocol has for it.
func (b *builder) auth(a *Auth, o *nodeOptions, user, secret string) {
	if a == nil {
		return
	}
	id := b.secret(SecretData{Ref: a.Secret})
	o.Add(user, a.User)
	o.Add(secret, id)
	o.secrets = append(o.secrets, id)
}

// tls adds a client's credentials. They stay for as long as the node does, which
// may have to connect again.
func (b *builder) tls(t *TLS, o *nodeOptions) {
	if t == nil {
		return
	}
	object := GraphObject{}
	if t.Key != nil {
		object.Secrets = []string{b.secret(SecretData{Ref: *t.Key})}
	}
	object.ID = b.objectName("tls")
	kind := "tls-creds-x509"
	if t.PSKUser != "" {
		kind = "tls-creds-psk"
	}
	object.Options = Object{{"qom-type", kind}, {"id", object.ID}, {"dir", cmp.Or(t.Dir, DefaultTLSDir)}, {"endpoint", "client"}}
	if t.PSKUser != "" {
		object.Options.Add("username", t.PSKUser)
	} else {
		object.Options.Add("verify-peer", true)
	}
	if t.Key != nil {
		object.Options.Add("passwordid", object.Secrets[0])
	}
	b.graph.Objects = append(b.graph.Objects, object)
	o.Add("tls-creds", object.ID)
	o.objects = append(o.objects, object.ID)
}

// add adds a node and returns its name.
func (b *builder) add(n Node) string {
	n.Name = n.Options.Text("node-name")
	b.graph.Nodes = append(b.graph.Nodes, n)
	return n.Name
}
