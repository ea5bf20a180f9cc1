package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestSSH attaches a volume of an SSH server.
func TestSSH(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	server := peer.StartSSH(t)
	q := startKnowing(t, server, server.Host)
	r := newRemote(t, q, v)
	good := server.SourceXML(v.Payload, r.encryption(""))
	r.use(t, good)
	r.writeEachWay(ctx, t, []another{
		{source: strings.Replace(good, "'root'", "'nobody'", 1), says: "nobody"},
		{source: server.SourceXML(v.Payload+"2", r.encryption("")), says: v.Payload},
	})
	r.wantWritten(ctx, t)
	elsewhere := func(host string) string {
		return "<source protocol='ssh' name='" + v.Payload + "'>" + host + r.encryption("") + "</source>"
	}
	uri := "ssh://" + server.Address() + v.Payload
	r.wantRefused(ctx, t, []refusedBy{
		{name: "no such file", source: server.SourceXML("/nowhere", r.encryption("")), code: 5, says: []string{"/nowhere cannot be opened", "does not have it"}},
		{name: "unknown user", source: strings.Replace(good, "'root'", "'nobody'", 1), code: 4, says: []string{uri + " cannot be opened", "SSH_AUTH_SOCK"}},
		{name: "no server", source: elsewhere(peer.ClosedPort(t)), code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}},
		silence("silence", elsewhere(peer.SilentPort(t))),
	})
	knows := r.q
	r.q = startKnowing(t, server, server.AnotherHost(t))
	r.wantRefused(ctx, t, []refusedBy{
		{name: "another host key", source: good, code: 5, says: []string{uri + " cannot be opened", "known_hosts", "possible attack"}},
	})
	r.q = startKnowing(t, server, "")
	r.wantRefused(ctx, t, []refusedBy{
		{name: "unknown host", source: good, code: 5, says: []string{uri + " cannot be opened", "known_hosts", "no host key"}},
	})
	r.q = knows
	r.whileAttached(ctx, t, "auto", server.Stop)
}

// startKnowing starts a QEMU whose user has an SSH agent and knows hosts.
func startKnowing(t *testing.T, server *peer.SSHServer, hosts string) *peer.QEMU {
	t.Helper()
	home := t.TempDir()
	must.OK(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
	must.OK(t, os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), []byte(hosts), 0o600))
	users := must.Get(os.ReadFile("/etc/passwd"))(t)
	// libssh takes the user's home from the list of users, not from the environment.
	own := writeFile(t, "passwd", strings.Replace(string(users), ":/root:", ":"+home+":", 1))
	return peer.Start(t, peer.Options{SCSI: true, Paused: true, Through: peer.Place{
		Files: map[string]string{"/etc/passwd": own}, Env: []string{"SSH_AUTH_SOCK=" + server.Agent}}.Through(t)})
}
