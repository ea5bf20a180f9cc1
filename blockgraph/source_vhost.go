package blockgraph

// vdpa returns the options of a block device that a vhost-vdpa device offers.
//
//	<disk type='vhostvdpa'>  source@dev -> driver virtio-blk-vhost-vdpa, path "/dev/fdset/N"
//
// QEMU gets the device as a descriptor, as with libvirt: its user can seldom open it. See
// BlockdevOptionsVirtioBlkVhostVdpa.
func (b *builder) vdpa(s Source, node string) nodeOptions {
	f := PassedFile{Node: node, Path: s.Path, FDSet: b.nextFDSet(), Opaque: b.name(RoleFDSet)}
	b.graph.Files = append(b.graph.Files, f)
	return nodeOptions{Object: Object{{"driver", "virtio-blk-vhost-vdpa"}, {"path", fdsetPath(f.FDSet)}}}
}

// PassedFile is a device of the VM's host that QEMU gets as a descriptor, open
// for reading and writing.
type PassedFile struct {
	Node   string // the name of the node that is opened with it
	Path   string // what to open
	FDSet  int64  // the id of the descriptor set that passes it
	Opaque string // the name that identifies the descriptor set
}

// Chardev is an argument of chardev-add: the connection to a vhost-user server,
// which the device uses in place of a block node.
//
//	<disk type='vhostuser'>  source@path       -> path
//	source/reconnect@timeout (seconds)         -> reconnect-ms, or reconnect (seconds) of an old QEMU
//
// See QEMU's docs/interop/qemu-qmp-ref, ChardevSocket.
type Chardev struct {
	ID        string
	Path      string // the server's socket
	Reconnect uint64 // milliseconds until QEMU reconnects, 0 for never
	Seconds   bool   // QEMU counts in seconds, see [Machine]
}

// ReconnectOption returns the option for reconnecting, in the unit of this QEMU.
func (c Chardev) ReconnectOption() (name string, value uint64) {
	if c.Seconds {
		return "reconnect", c.Reconnect / 1000
	}
	return "reconnect-ms", c.Reconnect
}

// command returns the arguments of chardev-add.
func (c Chardev) command() Object {
	data := Object{{"addr", Object{{"type", "unix"}, {"data", Object{{"path", c.Path}}}}}, {"server", false}}
	if c.Reconnect != 0 {
		name, value := c.ReconnectOption()
		data.Add(name, value)
	}
	return Object{{"id", c.ID}, {"backend", Object{{"type", "socket"}, {"data", data}}}}
}

// vhostUser adds the connection to a vhost-user server.
func (b *builder) vhostUser(s Source) string {
	c := Chardev{ID: b.name(RoleChardev), Path: s.Path, Reconnect: 1000 * uint64(s.Reconnect), Seconds: b.machine.ReconnectSeconds}
	b.graph.Chardevs = append(b.graph.Chardevs, c)
	return c.ID
}
