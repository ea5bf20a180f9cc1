package blockgraph

import (
	"strconv"
	"strings"
)

// NFS is a file that QEMU itself reads from an NFS server.
//
//	source@name               -> path
//	<host>, without a port    -> server, type inet
//	identity@user, @group     -> user, group
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsNfs.
type NFS struct {
	Path string
	Host string
	// User and Group are who we are to the server; nil for QEMU's own.
	User, Group *uint64
}

// Protocol implements [Network].
func (*NFS) Protocol() string { return "nfs" }

func (n *NFS) String() string { return "nfs://" + n.Host + "/" + strings.TrimPrefix(n.Path, "/") }

func (n *NFS) validate(element string) error {
	switch {
	case n.Path == "":
		return invalid(element+"@name", "missing name for disk source")
	case n.Host == "":
		return invalid(element+"/host", "'nfs' protocol requires the usage of exactly one host")
	}
	return nil
}

func (n *NFS) node(*builder, *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", "nfs"}, {"server", Object{{"host", n.Host}, {"type", "inet"}}}, {"path", n.Path}}}
	if n.User != nil {
		o.Add("user", *n.User)
	}
	if n.Group != nil {
		o.Add("group", *n.Group)
	}
	return o
}

func parseNFS(e *element, hosts []Host) (Network, error) {
	switch {
	case len(hosts) != 1:
		return nil, e.invalid("", "'nfs' protocol requires the usage of exactly one host: it has %d", len(hosts))
	case hosts[0].Port != 0:
		return nil, e.child("host").invalid("port", "port cannot be specified in 'nfs' protocol host")
	case hosts[0].Socket != "":
		return nil, e.child("host").invalid("transport", "only TCP can be used with the protocol nfs")
	}
	n := &NFS{Path: e.attr("name"), Host: hosts[0].Name}
	id := e.child("identity")
	if id == nil {
		return n, nil
	}
	for attr, field := range map[string]**uint64{"user": &n.User, "group": &n.Group} {
		text := id.attr(attr)
		if text == "" {
			continue
		}
		// libvirt also takes names of the host's users. A plan must not depend
		// on the machine that it is made on.
		number, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, 32)
		if err != nil {
			return nil, id.invalid(attr, "Failed to parse %s %q: give the number, such as +1000", attr, shorten(text))
		}
		*field = &number
	}
	return n, nil
}
