package blockgraph

// NBD is an export of an NBD server.
//
//	source@name           -> export
//	<host>                -> server, type inet (port 10809 unless given) or unix
//	source@tls            -> tls-creds, an object tls-creds-x509 (or tls-creds-psk)
//	source@tlsHostname    -> tls-hostname
//	source/reconnect@delay -> reconnect-delay (seconds)
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsNbd.
type NBD struct {
	Export         string // the name of the export, "" for the server's default
	Host           Host
	TLS            *TLS   // nil for an unencrypted connection
	ReconnectDelay uint64 // seconds that requests wait for a lost connection
}

const nbdPort = 10809 // IANA

// Protocol implements [Network].
func (*NBD) Protocol() string { return "nbd" }

func (n *NBD) String() string {
	scheme := "nbd"
	if n.TLS != nil {
		scheme = "nbds"
	}
	return url(scheme, n.Host, nbdPort, n.Export)
}

func (n *NBD) validate(element string) error { return n.TLS.validate(element) }

func (n *NBD) node(b *builder, _ *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", "nbd"}, {"server", n.Host.socket(nbdPort)}}}
	o.AddText("export", n.Export)
	b.tls(n.TLS, &o)
	if n.TLS != nil {
		o.AddText("tls-hostname", n.TLS.Hostname)
	}
	if n.ReconnectDelay != 0 {
		o.Add("reconnect-delay", n.ReconnectDelay)
	}
	return o
}
