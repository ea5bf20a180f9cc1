package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestWeb reads a volume of a web server.
func TestWeb(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	authority := peer.NewAuthority(t)
	server := peer.StartWeb(t, authority)
	ca := writeFile(t, "ca.pem", string(authority.Certificate))
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true, Through: peer.Place{Files: map[string]string{"/etc/ssl/certs/ca-certificates.crt": ca}}.Through(t)})
	must.OK(t, os.Symlink(v.Payload, filepath.Join(server.Files, "volume.img")))
	r := newRemote(t, q, v)
	r.keys["cookie"] = server.Cookie // not looked up: it is in the XML, and must be hidden
	const readOnly = "<readonly/>"
	good := r.auth(server.User, server.Password)
	source := func(file, cookie, auth string) string {
		cookies := "<cookies><cookie name='session'>" + cookie + "</cookie></cookies>"
		return server.SourceXML(file, "<ssl verify='yes'/>"+cookies+auth+r.encryption("")) + readOnly
	}
	r.use(t, source("volume.img", server.Cookie, good))
	must.OK(t, v.WriteOnHost(ctx, "write -P 0xb7 1M 1M"))
	for _, unlock := range unlockWays() {
		r.whileAttached(ctx, t, unlock, func() { r.io(ctx, t, "read -P 0xb7 1M 1M") })
	}
	elsewhere := func(host string) string {
		return "<source protocol='https' name='/volume.img'>" + host + r.encryption("") + "</source>" + readOnly
	}
	uri := "https://" + server.Address()
	r.wantRefused(ctx, t, []refusedBy{
		{name: "wrong password", source: source("volume.img", server.Cookie, r.auth(server.User, server.Password+"x")), code: 4,
			says: []string{uri + "/volume.img refuses the user vm1", "correct the secret's value", "401"}},
		{name: "no password", source: source("volume.img", server.Cookie, ""), code: 4, says: []string{uri, "add <auth>"}},
		{name: "wrong cookie", source: source("volume.img", "unknown", good), code: 5, says: []string{"cannot be opened", "<cookies>", "403"}},
		{name: "no such file", source: source("other.img", server.Cookie, good), code: 5,
			says: []string{uri + "/other.img cannot be opened", "does not have it", "404"}},
		{name: "to be written", source: strings.Replace(source("volume.img", server.Cookie, good), readOnly, "", 1), code: 5,
			says: []string{uri + "/volume.img can only be read", "add <readonly/>"}},
		{name: "no server", source: elsewhere(peer.ClosedPort(t)), code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}},
		silence("silence", elsewhere(peer.SilentPort(t))),
	})
	r.q = peer.Start(t, peer.Options{SCSI: true, Paused: true})
	r.wantRefused(ctx, t, []refusedBy{
		{name: "authority that this host does not trust", source: source("volume.img", server.Cookie, good), code: 5,
			says: []string{uri + "/volume.img cannot be opened", "<ssl verify='no'/>", "certificate verification failed"}},
	})
	// Without verification it is attached.
	r.use(t, strings.Replace(source("volume.img", server.Cookie, good), "verify='yes'", "verify='no'", 1))
	r.whileAttached(ctx, t, "auto", server.Stop)
}
