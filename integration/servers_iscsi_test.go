package integration

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/peer"
)

// TestISCSI plugs a volume in that a target with CHAP has.
func TestISCSI(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	server := peer.StartISCSI(t, v.Payload)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	r := newRemote(t, q, v)
	source := func(lun int, auth string) string { return server.SourceXML(lun, auth+r.encryption("")) }
	r.use(t, source(1, r.auth(server.User, server.Password)))
	r.writeEachWay(ctx, t)
	r.wantWritten(ctx, t)
	elsewhere := func(host string) string {
		return "<source protocol='iscsi' name='" + server.Name + "/1'>" + host + r.encryption("") + "</source>"
	}
	uri := "iscsi://" + server.Address() + "/" + server.Name
	r.wantRefused(ctx, t, []refusedBy{
		{name: "wrong password", source: source(1, r.auth(server.User, server.Password+"x")), code: 4,
			says: []string{uri + "/1 refuses the user vm1", "correct the secret's value", "Authentication failure"}},
		{name: "unknown user", source: source(1, r.auth("vm2", server.Password)), code: 4,
			says: []string{uri + "/1 refuses the user vm2", "or the <auth>"}},
		{name: "no password", source: source(1, ""), code: 4, says: []string{uri, "add <auth>"}},
		{name: "unknown unit", source: source(9, r.auth(server.User, server.Password)), code: 5,
			says: []string{uri + "/9 cannot be opened", "does not have it"}},
		{name: "unknown target", source: strings.Replace(source(1, r.auth(server.User, server.Password)), server.Name, "iqn.2026-01.example:other", 1), code: 5,
			says: []string{"iqn.2026-01.example:other/1 cannot be opened", "does not have it"}},
		{name: "nobody there", source: elsewhere(peer.ClosedPort(t)), code: 5, says: []string{"cannot be opened", "nobody answers", "<host>"}},
		silence("silence", elsewhere(peer.SilentPort(t))),
	})
}
