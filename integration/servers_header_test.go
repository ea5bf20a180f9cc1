package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestHeaderOnServer attaches a volume with payload and header on two servers, over two protocols.
func TestHeaderOnServer(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	authority := peer.NewAuthority(t)
	payloads := peer.StartISCSI(t, v.Payload, sized(t, "plain.img", 8*peer.MiB))
	headers := peer.StartNBDX509(t, v.Header, authority, "headers.example")
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	r := newRemote(t, q, v)
	auth, tls := r.auth(payloads.User, payloads.Password), []string{"--tls-dir", authority.ClientDir(t, authority)}
	with := func(auth, header string) string {
		return payloads.SourceXML(1, auth+r.encryption("<header type='network'>"+header+"</header>"))
	}
	named := func(name string) string { return headers.SourceXML("tls='yes' tlsHostname='"+name+"'", "") }
	r.use(t, with(auth, named("headers.example")), tls...)
	r.writeEachWay(ctx, t, []another{{source: with(auth, "<source protocol='nbd' name='other'>"+headers.HostXML()+"</source>"), says: "not "}})
	uri := "nbds://" + headers.Address() + "/disk"
	r.wantRefused(ctx, t, []refusedBy{
		{name: "header under another name", source: with(auth, named("other.example")), args: tls, code: 5,
			says: []string{uri + " cannot be opened", "does not match the hostname other.example"}},
		{name: "wrong password of the payload", source: with(r.auth(payloads.User, "not the password"), named("headers.example")), args: tls, code: 4,
			says: []string{"iscsi://" + payloads.Address(), "refuses the user vm1"}},
		{name: "no header", source: with(auth, payloads.SourceXML(2, auth)), args: tls, code: 5, says: []string{"has no LUKS header"}},
	})

	// A header that only luksplug reads may be read-only.
	web := peer.StartWeb(t, nil)
	must.OK(t, os.Symlink(v.Header, filepath.Join(web.Files, "header.img")))
	onWeb := with(auth, web.SourceXML("header.img", "<cookies><cookie name='session'>"+web.Cookie+"</cookie></cookies>"+r.auth(web.User, web.Password)))
	r.use(t, onWeb)
	r.whileAttached(ctx, t, "auto", func() { r.io(ctx, t, "read -P 0xa2 4M 1M") })
	r.wantRefused(ctx, t, []refusedBy{
		{name: "a header that QEMU cannot write", source: onWeb, code: 5, says: []string{"can only be read"}, ways: []string{"qemu", "external"}},
	})
	headers.Stop()
	r.wantWritten(ctx, t)
}
