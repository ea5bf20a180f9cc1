package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestDetachOfADiskInUse: what else uses a disk's nodes is named before anything is changed: QEMU would take the device
// from the guest, and keep the nodes.
func TestDetachOfADiskInUse(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	send := func(name string, args map[string]any) {
		t.Helper()
		if args == nil {
			args = map[string]any{}
		}
		if _, err := q.Query(ctx, name, args); err != nil {
			t.Errorf("%s: %v", name, err) // not fatal: it runs in subtests
		}
	}
	v := peer.NewVolume(t, peer.DetachedRaw)
	xml := v.DiskXML("sda", "scsi")
	attach := attachArgs(t, v, xml)
	before := stateOf(ctx, t, q)
	tool(ctx, t, q.Socket, attach...).want(t, 0)
	const top = "luksplug-sda-luks"
	// file adds a node of an empty file.
	file := func(name string, bytes int64) string {
		image := sized(t, name, bytes)
		send("blockdev-add", map[string]any{"driver": "file", "filename": image, "node-name": name})
		return name
	}
	remove := func(names ...string) {
		for _, name := range names {
			send("blockdev-del", map[string]any{"node-name": name})
		}
	}
	dir := shortDir(t, "")
	endJob := func() {
		m := must.Get(q.Monitor(ctx))(t)
		send("job-cancel", map[string]any{"id": "j"})
		must.Get(m.WaitEvent(ctx, func(e peer.Event) bool {
			return e.Name == "JOB_STATUS_CHANGE" && statusOf(e) == "null"
		}))(t)
	}
	for name, c := range map[string]struct {
		begin, end func()
		want       []string
	}{
		"mirror": {func() {
			send("blockdev-mirror", map[string]any{"job-id": "j", "device": top, "target": file("copy", v.Size), "sync": "full", "speed": 1})
		}, func() { endJob(); remove("copy") }, []string{"job j (mirror)", "job-cancel"}},
		"mirror with a named filter": {func() {
			send("blockdev-mirror", map[string]any{"job-id": "j", "device": top, "target": file("copy", v.Size), "sync": "full", "speed": 1, "filter-node-name": "filter"})
		}, func() { endJob(); remove("copy") }, []string{"job j (mirror)", "node filter"}},
		"backup": {func() {
			send("blockdev-backup", map[string]any{"job-id": "j", "device": top, "target": file("copy", v.Size), "sync": "full", "speed": 1})
		}, func() { endJob(); remove("copy") }, []string{"job j (backup)"}},
		"backup, not started": {func() {
			send("blockdev-backup", map[string]any{"job-id": "j", "device": top, "target": file("copy", v.Size), "sync": "full", "auto-finalize": false, "speed": 1})
		}, func() { endJob(); remove("copy") }, []string{"job j (backup)"}},
		"backup of a lower node": {func() {
			send("blockdev-backup", map[string]any{"job-id": "j", "device": "luksplug-sda-payload-storage", "target": file("copy", must.Get(os.Stat(v.Payload))(t).Size()), "sync": "full", "speed": 1})
		}, func() { endJob(); remove("copy") }, []string{"job j (backup)"}},
		"export": {func() {
			send("nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": filepath.Join(dir, "nbd")}}})
			send("block-export-add", map[string]any{"id": "ex", "type": "nbd", "node-name": top})
		}, func() { send("nbd-server-stop", nil) }, []string{"export ex (nbd)", "block-export-del"}},
		"export of another kind": {func() {
			send("block-export-add", map[string]any{"id": "vub", "type": "vhost-user-blk", "node-name": top,
				"addr": map[string]any{"type": "unix", "path": filepath.Join(dir, "vub")}})
		}, func() {
			m := must.Get(q.Monitor(ctx))(t)
			send("block-export-del", map[string]any{"id": "vub", "mode": "hard"})
			must.Get(m.WaitEvent(ctx, func(e peer.Event) bool { return e.Name == "BLOCK_EXPORT_DELETED" }))(t)
		}, []string{"export vub (vhost-user-blk)"}},
		"export of a node on top": {func() {
			send("blockdev-add", map[string]any{"driver": "raw", "file": top, "node-name": "upper", "read-only": true})
			send("nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": filepath.Join(dir, "nbd2")}}})
			send("block-export-add", map[string]any{"id": "ex", "type": "nbd", "node-name": "upper"})
		}, func() { send("nbd-server-stop", nil); remove("upper") }, []string{"export ex (nbd)", "node upper", "blockdev-del"}},
		"a node on top of the header": {func() {
			send("blockdev-add", map[string]any{"driver": "raw", "file": "luksplug-sda-header-storage", "node-name": "upper", "read-only": true})
		}, func() { remove("upper") }, []string{"node upper"}},
		"another device": {func() {
			send("device_add", map[string]any{"driver": "scsi-cd", "drive": top, "id": "second", "share-rw": true, "bus": "scsi0.0", "lun": 5})
		}, func() {
			m := must.Get(q.Monitor(ctx))(t)
			send("device_del", map[string]any{"id": "second"})
			must.Get(m.WaitEvent(ctx, func(e peer.Event) bool { return e.Name == "DEVICE_DELETED" }))(t)
		}, []string{"device second", "device_del"}},
		"snapshot": {func() {
			overlay := filepath.Join(t.TempDir(), "overlay")
			command(ctx, t, "qemu-img", "create", "-q", "-f", "qcow2", overlay, strconv.FormatInt(v.Size, 10))
			send("blockdev-add", map[string]any{"driver": "file", "filename": overlay, "node-name": "ov-file"})
			send("blockdev-add", map[string]any{"driver": "qcow2", "file": "ov-file", "node-name": "ov", "backing": nil})
			send("blockdev-snapshot", map[string]any{"node": top, "overlay": "ov"})
		}, func() {
			m := must.Get(q.Monitor(ctx))(t)
			send("block-commit", map[string]any{"job-id": "j", "device": "ov"})
			must.Get(m.WaitEvent(ctx, func(e peer.Event) bool { return e.Name == "JOB_STATUS_CHANGE" && statusOf(e) == "ready" }))(t)
			send("job-complete", map[string]any{"id": "j"})
			must.Get(m.WaitEvent(ctx, func(e peer.Event) bool { return e.Name == "JOB_STATUS_CHANGE" && statusOf(e) == "null" }))(t)
			remove("ov", "ov-file")
		}, []string{"node ov", "block-commit"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.begin()
			used := stateOf(ctx, t, q)
			for _, args := range [][]string{{"detach", "sda"}, {"detach", "sda", "--force"}} { // no device without its nodes
				got := tool(ctx, t, q.Socket, args...).want(t, 5)
				wantOneLine(t, got, append(c.want, "disk sda refused")...)
			}
			wantSame(ctx, t, q, used)
			c.end()
		})
	}
	// A dirty bitmap goes with its node.
	send("block-dirty-bitmap-add", map[string]any{"node": top, "name": "b"})
	tool(ctx, t, q.Socket, "detach", "sda").want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestAliasedDiskBelowAnotherNode: QEMU reports the node on top as that of the device, so a disk whose device has a
// user's alias looks like a leftover. It is left as it is, on the host as well.
func TestAliasedDiskBelowAnotherNode(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	attach := attachArgs(t, v, edited(t, v.DiskXML("sda", "scsi"), "<target", "<alias name='ua-data'/><target"))
	tool(ctx, t, q.Socket, attach...).want(t, 0)
	must.Get(q.Query(ctx, "blockdev-add", map[string]any{"driver": "file", "filename": sized(t, "copy", v.Size), "node-name": "copy"}))(t)
	must.Get(q.Query(ctx, "blockdev-mirror", map[string]any{"job-id": "j", "device": "luksplug-sda-luks", "target": "copy", "sync": "full", "speed": 1, "filter-node-name": "filter"}))(t)
	used := stateOf(ctx, t, q)
	wantOneLine(t, tool(ctx, t, q.Socket, "detach", "sda").want(t, 5), "job j (mirror)", "node filter")
	wantOneLine(t, tool(ctx, t, q.Socket, "repair").want(t, 7), "job j (mirror)", "node filter")
	wantTexts(t, "the error", tool(ctx, t, q.Socket, attach...).want(t, 7).stderr, []string{"job j (mirror)", "node filter"})
	wantSame(ctx, t, q, used)
}

// TestRepairOfADiskInUse: a leftover that something uses is named with its user.
func TestRepairOfADiskInUse(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	before := stateOf(ctx, t, q)
	image := sized(t, "left.img", peer.MiB)
	must.Get(q.Query(ctx, "blockdev-add", map[string]any{"driver": "file", "filename": image, "node-name": "luksplug-sda-payload-storage"}))(t)
	must.Get(q.Query(ctx, "blockdev-add", map[string]any{"driver": "raw", "file": "luksplug-sda-payload-storage", "node-name": "upper"}))(t)
	wantOneLine(t, tool(ctx, t, q.Socket, "repair").want(t, 7), "node upper", "luksplug-sda-payload-storage")
	wantOneLine(t, tool(ctx, t, q.Socket, "detach", "sda").want(t, 5), "node upper")
	must.Get(q.Query(ctx, "blockdev-del", map[string]any{"node-name": "upper"}))(t)
	tool(ctx, t, q.Socket, "repair").want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestDetachWithoutTheBlockGraph: a QEMU that refuses unstable commands reports exports.
func TestDetachWithoutTheBlockGraph(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true, Extra: []string{"-compat", "unstable-input=reject"}})
	v := peer.NewVolume(t, peer.DetachedRaw)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("sda", "scsi"))...).want(t, 0)
	if _, err := q.Query(ctx, "x-debug-query-block-graph", map[string]any{}); err == nil {
		t.Fatal("QEMU has not refused the command")
	}
	must.Get(q.Query(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": filepath.Join(shortDir(t, ""), "nbd")}}}))(t)
	must.Get(q.Query(ctx, "block-export-add", map[string]any{"id": "ex", "type": "nbd", "node-name": "luksplug-sda-luks"}))(t)
	wantOneLine(t, tool(ctx, t, q.Socket, "detach", "sda").want(t, 5), "export ex (nbd)")
	must.Get(q.Query(ctx, "nbd-server-stop", map[string]any{}))(t)
	tool(ctx, t, q.Socket, "detach", "sda").want(t, 0)
}

// statusOf returns the status in a JOB_STATUS_CHANGE event.
func statusOf(e peer.Event) string {
	var data struct{ Status string }
	_ = json.Unmarshal(e.Data, &data) // "" is no status
	return data.Status
}
