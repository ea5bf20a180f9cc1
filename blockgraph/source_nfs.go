package blockgraph

import "strings"

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
	// User and Group are the ids that requests are made with; nil for QEMU's own.
	User, Group *uint64
}

// Protocol implements [Network].
func (*NFS) Protocol() string { return "nfs" }

func (n *NFS) String() string { return "nfs://" + n.Host + "/" + strings.TrimPrefix(n.Path, "/") }

func (n *NFS) validate(element string) error {
	return check([]rule{
		{n.Path == "", invalid, element + "@name", "missing name for disk source"},
		{n.Host == "", invalid, element + "/host", "'nfs' protocol requires the usage of exactly one host"},
	})
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
