package blockgraph

// Gluster is a file in a Gluster volume.
//
//	source@name "volume/path" -> volume, path
//	<host>, any number        -> server[], type inet (port 24007 unless given) or unix
//	                          -> debug 4, libvirt's default (qemu.conf, gluster_debug_level)
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsGluster.
type Gluster struct {
	Volume, Path string
	Hosts        []Host
}

const glusterPort = 24007

// Protocol implements [Network].
func (*Gluster) Protocol() string { return "gluster" }

func (g *Gluster) String() string {
	host := Host{}
	if len(g.Hosts) > 0 {
		host = g.Hosts[0]
	}
	return url("gluster", host, glusterPort, g.Volume+"/"+g.Path)
}

func (g *Gluster) validate(element string) error {
	return check([]rule{
		{g.Volume == "" || g.Path == "", invalid, element + "@name", "can't split path into pool name and image name: write it like volume/path"},
		{len(g.Hosts) == 0, invalid, element + "/host", "is missing: a gluster source needs at least one host"},
	})
}

func (g *Gluster) node(*builder, *Encryption) nodeOptions {
	var servers []any
	for _, h := range g.Hosts {
		servers = append(servers, h.socket(glusterPort))
	}
	return nodeOptions{Object: Object{{"driver", "gluster"}, {"volume", g.Volume}, {"path", g.Path}, {"server", servers}, {"debug", 4}}}
}
