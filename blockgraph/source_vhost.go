package blockgraph

import (
	"strconv"
	"strings"
)

// vdpa returns the options of a block device that a vhost-vdpa device offers.
//
//	<disk type='vhostvdpa'>  source@dev -> driver virtio-blk-vhost-vdpa, path "/dev/fdset/N"
//
// As libvirt has it, QEMU gets the device as a descriptor: the user that QEMU
// runs as can seldom open it. See BlockdevOptionsVirtioBlkVhostVdpa.
func (b *builder) vdpa(s Source, node string) nodeOptions {
	f := PassedFile{Node: node, Path: s.Path, FDSet: b.nextFDSet(), Opaque: Name(b.disk.Target, RoleFDSet)}
	b.graph.Files = append(b.graph.Files, f)
	return nodeOptions{Object: Object{{"driver", "virtio-blk-vhost-vdpa"}, {"path", fdsetPath(f.FDSet)}}}
}

// PassedFile is a device of the VM's host that QEMU gets as a descriptor, open
// for reading and writing.
type PassedFile struct {
	// Node is the name of the node that is opened with it.
	Node string
	// Path is what is to be opened.
	Path string
	// FDSet is the id of the descriptor set that it is passed in, and Opaque
	// the name by which the set is recognised.
	FDSet  int64
	Opaque string
}

// Chardev is an argument of chardev-add: the connection to a vhost-user server,
// which the device uses in place of a block node.
//
//	<disk type='vhostuser'>  source@path       -> path
//	source/reconnect@timeout (seconds)         -> reconnect-ms, or reconnect (seconds) of an old QEMU
//
// See QEMU's docs/interop/qemu-qmp-ref, ChardevSocket.
type Chardev struct {
	ID string
	// Path is the server's socket.
	Path string
	// Reconnect is after how many milliseconds QEMU connects again, 0 for never.
	Reconnect uint64
	// Seconds tells that this QEMU counts in seconds, see [Machine].
	Seconds bool
}

// reconnect returns the option that says when to connect again.
func (c Chardev) reconnect() (name string, value uint64) {
	if c.Seconds {
		return "reconnect", c.Reconnect / 1000
	}
	return "reconnect-ms", c.Reconnect
}

// argument returns the options of -chardev, which are text.
func (c Chardev) argument() Object {
	o := Object{{"driver", "socket"}, {"id", c.ID}, {"path", c.Path}}
	if c.Reconnect != 0 {
		name, value := c.reconnect()
		o.Add(name, strconv.FormatUint(value, 10))
	}
	return o
}

// text returns the value of -chardev, where a comma is doubled.
func (c Chardev) text() string {
	escape := strings.NewReplacer(",", ",,")
	text := "socket,id=" + c.ID + ",path=" + escape.Replace(c.Path)
	if c.Reconnect != 0 {
		name, value := c.reconnect()
		text += "," + name + "=" + strconv.FormatUint(value, 10)
	}
	return text
}

// command returns the arguments of chardev-add.
func (c Chardev) command() Object {
	data := Object{{"addr", Object{{"type", "unix"}, {"data", Object{{"path", c.Path}}}}}, {"server", false}}
	if c.Reconnect != 0 {
		name, value := c.reconnect()
		data.Add(name, value)
	}
	return Object{{"id", c.ID}, {"backend", Object{{"type", "socket"}, {"data", data}}}}
}

// vhostUser adds the connection to a vhost-user server.
func (b *builder) vhostUser(s Source) string {
	c := Chardev{ID: Name(b.disk.Target, RoleChardev), Path: s.Path, Reconnect: 1000 * uint64(s.Reconnect), Seconds: b.machine.ReconnectSeconds}
	b.graph.Chardevs = append(b.graph.Chardevs, c)
	return c.ID
}

func parseVHostUser(e *element, out *Source) error {
	if e.attr("type") != "unix" {
		return e.invalid("type", "invalid 'type' attribute for vhostuser disk source: use type='unix'")
	}
	if err := oneOf(e, "mode", "client"); err != nil {
		return err
	}
	if out.Path = e.attr("path"); out.Path == "" {
		return e.invalid("path", "is missing: a vhostuser source needs the path of the server's socket")
	}
	r := e.child("reconnect")
	if r == nil {
		return nil
	}
	switch r.attr("enabled") {
	case "yes":
		n, err := decimal(r, "timeout")
		out.Reconnect = uint(n)
		if err == nil && (n == 0 || n > 1<<32) {
			err = r.invalid("timeout", "%d is no time to wait: give seconds, from 1", n)
		}
		return err
	case "no":
		return nil
	}
	return r.invalid("enabled", "%q is not known: use yes or no", shorten(r.attr("enabled")))
}
