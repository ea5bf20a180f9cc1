package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestISCSI attaches a volume of a target with CHAP.
func TestISCSI(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	server := peer.StartISCSI(t, v.Payload, sized(t, "plain.img", 8*peer.MiB))
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	r := newRemote(t, q, v)
	source := func(lun int, auth string) string { return server.SourceXML(lun, auth+r.encryption("")) }
	auth := r.auth(server.User, server.Password)
	r.use(t, source(1, auth))
	const initiator, limit = "<initiator><iqn name='iqn.2026-01.example:vm'/></initiator>", "<iotune><total_iops_sec>100</total_iops_sec></iotune>"
	r.writeEachWay(ctx, t, []another{
		{source: source(2, auth), says: "2)"},
		{source: source(1, strings.Replace(auth, "vm1", "vm2", 1)), says: "user vm1, not vm2"},
		{source: source(1, ""), says: "not "},
		{source: source(1, initiator+auth), says: "initiator-name none, not iqn.2026-01.example:vm"},
		{source: source(1, auth) + limit, says: "its limit iops is 0, not 100"},
	})
	r.wantWritten(ctx, t)

	// A disk without encryption, with limits.
	plain := server.SourceXML(2, initiator+auth) + limit
	r.use(t, plain)
	r.whileAttached(ctx, t, "auto", func() {
		r.io(ctx, t, "write -P 0x33 1M 1M")
		r.wantAnother(ctx, t, []another{
			{source: server.SourceXML(1, initiator+auth) + limit, says: "lun 2, not 1"},
			{source: server.SourceXML(2, auth) + limit, says: "initiator-name iqn.2026-01.example:vm, not none"},
			{source: server.SourceXML(2, initiator+auth), says: "its limit iops is 100, not 0"},
			{source: strings.Replace(plain, "100", "200", 1), says: "its limit iops is 100, not 200"},
			{source: strings.Replace(plain, "</iotune>", "<group_name>bronze</group_name></iotune>", 1), says: "not of bronze"},
		})
	})

	elsewhere := func(host string) string {
		return "<source protocol='iscsi' name='" + server.Name + "/1'>" + host + r.encryption("") + "</source>"
	}
	uri := "iscsi://" + server.Address() + "/" + server.Name
	r.wantRefused(ctx, t, []refusedBy{
		{name: "wrong password", source: source(1, r.auth(server.User, server.Password+"x")), code: 4,
			says: []string{uri + "/1 refuses the user vm1", "correct the secret's value", "Authentication failure"}},
		{name: "LUKS without <encryption>", source: server.SourceXML(1, auth), code: 5,
			says: []string{uri + "/1 is encrypted with LUKS", "add <encryption format='luks'>"}},
		{name: "<encryption> without LUKS", source: source(2, auth), code: 5, says: []string{uri + "/2 has no LUKS header"}},
		{name: "unknown user", source: source(1, r.auth("vm2", server.Password)), code: 4,
			says: []string{uri + "/1 refuses the user vm2", "or the <auth>"}},
		{name: "no password", source: source(1, ""), code: 4, says: []string{uri, "add <auth>"}},
		{name: "unknown unit", source: source(9, r.auth(server.User, server.Password)), code: 5,
			says: []string{uri + "/9 cannot be opened", "does not have it"}},
		{name: "unknown target", source: strings.Replace(source(1, r.auth(server.User, server.Password)), server.Name, "iqn.2026-01.example:other", 1), code: 5,
			says: []string{"iqn.2026-01.example:other/1 cannot be opened", "does not have it"}},
		{name: "no server", source: elsewhere(peer.ClosedPort(t)), code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}},
		silence("silence", elsewhere(peer.SilentPort(t))),
	})
	r.use(t, source(1, auth))
	r.whileAttached(ctx, t, "auto", server.Stop)
}

// TestServerWithoutStorageDaemon: on a host without a storage daemon, the disk is refused unless QEMU is chosen to unlock
// it. QEMU itself fails on the server then, and is rolled back.
func TestServerWithoutStorageDaemon(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	server := peer.StartISCSI(t, v.Payload)
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), v)
	attach := func(source, unlock string) result {
		cmd := exec.CommandContext(ctx, luksplug, "--qmp", r.q.Socket, "--keystore", "dir:"+r.keyStore(t), "attach", "--unlock", unlock, writeFile(t, "disk.xml", r.diskXML(source)))
		cmd.Env = append(os.Environ(), "PATH="+t.TempDir())
		return run(ctx, t, cmd)
	}
	source := func(password string) string {
		return server.SourceXML(1, r.auth(server.User, password)+r.encryption(""))
	}
	before := stateOf(ctx, t, r.q)
	for _, c := range []struct {
		source string
		code   int
		says   string
	}{
		{source(server.Password + "x"), 4, "Authentication failure"},
		{strings.Replace(source(server.Password), server.HostXML(), peer.ClosedPort(t), 1), 6, "because nothing answers at that address"},
	} {
		got := attach(c.source, "qemu").want(t, c.code)
		wantTexts(t, "the error", failure(got), []string{c.says, "as it was before"})
		wantSame(ctx, t, r.q, before)
	}
	wantOneLine(t, attach(source(server.Password), "auto").want(t, 5), "there is none on this host", "--unlock qemu")
	wantSame(ctx, t, r.q, before)
	attach(source(server.Password), "qemu").want(t, 0)
	tool(ctx, t, r.q.Socket, "detach", remoteTarget).want(t, 0)
	wantSame(ctx, t, r.q, before)
}

// TestServerStopsAnswering: a server that answers luksplug's check, but not QEMU a moment later, blocks QEMU.
// This is reported, and repaired when the server answers again.
func TestServerStopsAnswering(t *testing.T) {
	peer.Long(t, "waits for a VM that does not answer")
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	server := peer.StartISCSI(t, v.Payload)
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), v)
	before := stateOf(ctx, t, r.q)
	xml := writeFile(t, "disk.xml", r.diskXML(server.SourceXML(1, r.auth(server.User, server.Password)+r.encryption(""))))
	proxy := peer.NewProxy(t, r.q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		if c.Name == "blockdev-add" {
			if err := server.Suspend(); err != nil {
				t.Error(err)
			}
		}
		return peer.Verdict{}
	}})
	got := tool(ctx, t, proxy.Address, "--timeout", "3s", "--keystore", "dir:"+r.keyStore(t), "attach", xml).want(t, 7)
	wantTexts(t, "the error", failure(got), []string{"possibly left behind", "luksplug repair"})
	must.OK(t, server.Resume())
	tool(ctx, t, r.q.Socket, "repair").want(t, 0)
	wantSame(ctx, t, r.q, before)
}
