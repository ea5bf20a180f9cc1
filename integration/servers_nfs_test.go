package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestNFS attaches a volume of an NFS server. QEMU and luksplug are in the server's network namespace.
func TestNFS(t *testing.T) {
	peer.Long(t, "fetches an NFS server, and waits for one that hangs")
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	server := peer.StartNFS(t, filepath.Dir(v.Payload))
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true, Through: server.Through()}), v)
	good := server.SourceXML(v.Payload, r.encryption(""))
	as := func(id, path string) string {
		return server.SourceXML(path, "<identity user='+"+id+"' group='+"+id+"'/>"+r.encryption(""))
	}
	r.use(t, good)
	r.writeEachWay(ctx, t, []another{
		{source: server.SourceXML(v.Payload+"2", r.encryption("")), says: v.Payload},
		{source: as("1000", v.Payload), says: "none, not 1000"},
	})
	r.wantWritten(ctx, t)

	// As another user.
	must.OK(t, os.Chown(v.Payload, 1000, 1000))
	r.use(t, as("1000", v.Payload))
	r.writeEachWay(ctx, t, []another{{source: good, says: "1000, not none"}})
	r.wantWritten(ctx, t)

	must.OK(t, os.Chmod(v.Payload, 0o600))
	readable := filepath.Join(server.Files, "readable.img")
	must.OK(t, os.WriteFile(readable, must.Get(os.ReadFile(v.Payload))(t), 0o444))
	elsewhere := func(host string) string {
		return "<source protocol='nfs' name='" + v.Payload + "'>" + host + r.encryption("") + "</source>"
	}
	uri := "nfs://127.0.0.1"
	r.wantRefused(ctx, t, []refusedBy{
		{name: "no such file", source: server.SourceXML(server.Files+"/nowhere", r.encryption("")), code: 5,
			says: []string{uri + server.Files + "/nowhere cannot be opened", "does not have it"}},
		{name: "no path", source: server.SourceXML("nowhere", r.encryption("")), code: 5, says: []string{"cannot be opened", "does not have it"}, ways: []string{"auto"}},
		{name: "directory that is not exported", source: server.SourceXML("/nowhere/disk.img", r.encryption("")), code: 5,
			says: []string{uri + "/nowhere/disk.img cannot be opened", "exports"}},
		{name: "user who may not read", source: as("1001", v.Payload), code: 5, says: []string{uri + v.Payload + " cannot be opened", "<identity>"}},
		{name: "user who may not write", source: as("1001", readable), code: 6, says: []string{"as it was before", "<identity>"}, ways: []string{"auto", "qemu"}},
		{name: "user who may not write", source: as("1001", readable), code: 5, says: []string{"<identity>"}, ways: []string{"external"}},
		{name: "no server", source: elsewhere("<host name='192.0.2.1'/>"), code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}},
		{name: "unknown host", source: elsewhere("<host name='nowhere.invalid'/>"), code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}, ways: []string{"auto"}},
	})
	must.OK(t, server.Suspend())
	r.wantRefused(ctx, t, []refusedBy{silence("silence", good)})
	must.OK(t, server.Resume())

	// QEMU requests the file's size from the server at each query of its nodes, and blocks until it answers.
	r.use(t, good)
	before := stateOf(ctx, t, r.q)
	r.attach(ctx, t, "auto")
	must.OK(t, server.Suspend())
	got := tool(ctx, t, r.q.Socket, "--timeout", "3s", "list").want(t, 1)
	wantTexts(t, "the error", failure(got), []string{"does not answer", "server"})
	must.OK(t, server.Resume())
	tool(ctx, t, r.q.Socket, "detach", remoteTarget).want(t, 0)
	wantSame(ctx, t, r.q, before)

	server.Stop()
	r.wantRefused(ctx, t, []refusedBy{
		{name: "server gone", source: good, code: 5, says: []string{"cannot be opened", "nothing answers", "<host>"}},
	})
}
