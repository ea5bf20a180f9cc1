package integration

import (
	"testing"

	"github.com/luksplug/luksplug/integration/peer"
)

// TestNBDWithTLS plugs volumes in that servers have which know their clients by
// certificates.
func TestNBDWithTLS(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	authority, other := peer.NewAuthority(t), peer.NewAuthority(t)
	server := peer.StartNBDX509(t, v.Payload, authority, "disks.example")
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	r := newRemote(t, q, v)
	enc := r.encryption("")
	named := func(name string) string { return server.SourceXML("tls='yes' tlsHostname='"+name+"'", enc) }
	folder := func(f string) []string { return []string{"--tls-dir", f} }
	r.use(t, named("disks.example"), folder(authority.ClientFolder(t, authority))...)
	r.writeEachWay(ctx, t)
	clear := peer.StartNBD(t, peer.NewVolume(t, peer.EmbeddedLUKS).Payload)
	elsewhere := func(host, name string) string {
		return "<source protocol='nbd' name='" + name + "'>" + host + enc + "</source>"
	}
	uri := "nbds://" + server.Address() + "/disk"
	r.wantRefused(ctx, t, []refusedBy{
		{name: "another name", source: named("other.example"), args: r.args, code: 5,
			says: []string{uri + " cannot be opened", "tlsHostname", "does not match the hostname other.example"}},
		{name: "no name", source: server.SourceXML("tls='yes'", enc), args: r.args, code: 5,
			says: []string{uri + " cannot be opened", "tlsHostname", "does not match the hostname 127.0.0.1"}},
		{name: "server of another authority", source: named("disks.example"), args: folder(other.ClientFolder(t, other)), code: 5,
			says: []string{uri + " cannot be opened", "not one for that name by an authority that we trust", "ca-cert.pem"}},
		{name: "client of another authority", source: named("disks.example"), args: folder(authority.And(other).ClientFolder(t, other)), code: 5,
			says: []string{uri + " cannot be opened", "--tls-dir"}},
		{name: "files that do not match", source: named("disks.example"), args: folder(authority.ClientFolder(t, other)), code: 5,
			says: []string{uri + " cannot be opened", "the files of a TLS client cannot be used", "--tls-dir"}},
		{name: "no files", source: named("disks.example"), args: folder(t.TempDir()), code: 5,
			says: []string{uri + " cannot be opened", "the files of a TLS client cannot be used", "--tls-dir"}},
		{name: "in the clear", source: server.SourceXML("", enc), code: 5, says: []string{"cannot be opened", "add tls='yes'"}},
		{name: "a server in the clear", source: clear.SourceXML("tls='yes'", enc), args: r.args, code: 5, says: []string{"cannot be opened", "remove tls='yes'"}},
		{name: "unknown export", source: elsewhere(clear.HostXML(), "other"), code: 5, says: []string{"/other cannot be opened", "does not have it"}},
		{name: "nobody there", source: elsewhere(peer.ClosedPort(t), "disk"), code: 5, says: []string{"cannot be opened", "nobody answers", "<host>"}},
		silence("silence", elsewhere(peer.SilentPort(t), "disk")),
	})
	server.Stop()
	r.wantWritten(ctx, t)
}
