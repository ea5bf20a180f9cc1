package integration

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// TestNBDWithTLS attaches volumes of servers that identify their clients by certificates.
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
	tlsDir := func(f string) []string { return []string{"--tls-dir", f} }
	r.use(t, named("disks.example"), tlsDir(authority.ClientDir(t, authority))...)
	another := []another{
		{source: named("other.example"), args: r.args, says: "tls-hostname disks.example, not other.example"},
		{source: named("disks.example"), args: tlsDir(t.TempDir()), says: "dir of its object luksplug-sdb-tls0"},
		{source: server.SourceXML("", enc), says: "not n"},
	}
	r.writeEachWay(ctx, t, another)
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
		{name: "server of another authority", source: named("disks.example"), args: tlsDir(other.ClientDir(t, other)), code: 5,
			says: []string{uri + " cannot be opened", "not issued for that name by a trusted authority", "ca-cert.pem"}},
		{name: "client of another authority", source: named("disks.example"), args: tlsDir(authority.And(other).ClientDir(t, other)), code: 5,
			says: []string{uri + " cannot be opened", "--tls-dir"}},
		{name: "files that do not match", source: named("disks.example"), args: tlsDir(authority.ClientDir(t, other)), code: 5,
			says: []string{uri + " cannot be opened", "the files of a TLS client cannot be used", "--tls-dir"}},
		{name: "no files", source: named("disks.example"), args: tlsDir(t.TempDir()), code: 5,
			says: []string{uri + " cannot be opened", "the files of a TLS client cannot be used", "--tls-dir"}},
		{name: "in the clear", source: server.SourceXML("", enc), code: 5, says: []string{"cannot be opened", "add tls='yes'"}},
		{name: "a server in the clear", source: clear.SourceXML("tls='yes'", enc), args: r.args, code: 5, says: []string{"cannot be opened", "remove tls='yes'"}},
		{name: "unknown export", source: elsewhere(clear.HostXML(), "other"), code: 5, says: []string{"/other cannot be opened", "does not have it"}},
		{name: "no server", source: elsewhere(peer.ClosedPort(t), "disk"), code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}},
		silence("silence", elsewhere(peer.SilentPort(t), "disk")),
	})
	r.whileAttached(ctx, t, "auto", server.Stop)
	r.wantWritten(ctx, t)
}

// TestNBDWithEncryptedKey encrypts the key of a TLS client's certificate with a passphrase.
func TestNBDWithEncryptedKey(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	authority := peer.NewAuthority(t)
	server := peer.StartNBDX509(t, v.Payload, authority, "disks.example", "127.0.0.1")
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), v)
	dir, passphrase := authority.EncryptedClientDir(t)
	source := server.SourceXML("tls='yes'", r.encryption(""))
	secret := func(value string) []string {
		return []string{"--tls-dir", dir, "--tls-secret", strings.Trim(strings.TrimPrefix(r.secret(value), "uuid="), "'")}
	}
	r.use(t, source, secret(passphrase)...)
	r.writeEachWay(ctx, t, nil)
	r.wantRefused(ctx, t, []refusedBy{
		{name: "wrong passphrase", source: source, args: secret(passphrase + "x"), code: 4, says: []string{"does not decrypt the key of the TLS client"}},
		{name: "no passphrase", source: source, args: []string{"--tls-dir", dir}, code: 5, says: []string{"cannot be opened", "--tls-secret"}},
	})
	r.whileAttached(ctx, t, "auto", server.Stop)
	r.wantWritten(ctx, t)
}

// TestNBDWithPSK attaches a volume of a server that shares keys with its clients.
func TestNBDWithPSK(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	key := peer.NewPSK("vm1")
	server := peer.StartNBDPSK(t, v.Payload, key)
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), v)
	r.keys["psk"] = key.Key // not looked up, but must be hidden
	source := server.SourceXML("tls='yes'", r.encryption(""))
	with := func(k peer.PSK, user string) []string { return []string{"--tls-dir", k.Dir(t), "--tls-psk", user} }
	r.use(t, source, with(key, "vm1")...)
	r.writeEachWay(ctx, t, []another{{source: source, args: with(key, "vm2"), says: "of its object luksplug-sdb-tls0"}})
	other := peer.NewPSK("vm2")
	r.wantRefused(ctx, t, []refusedBy{
		{name: "wrong key", source: source, args: with(peer.NewPSK("vm1"), "vm1"), code: 5, says: []string{"cannot be opened", "keys.psk"}},
		{name: "unknown user", source: source, args: with(other, "vm2"), code: 5, says: []string{"cannot be opened", "keys.psk"}},
		{name: "user that has no key here", source: source, args: with(other, "vm3"), code: 5, says: []string{"cannot be opened", "the files of a TLS client cannot be used"}},
		{name: "a name in addition", source: server.SourceXML("tls='yes' tlsHostname='x'", r.encryption("")), args: r.args, code: 2, says: []string{"tlsHostname"}},
	})
	r.whileAttached(ctx, t, "auto", server.Stop)
	r.wantWritten(ctx, t)
}
