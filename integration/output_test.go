package integration

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// keysOf returns the names of a JSON object's members, sorted.
func keysOf(t *testing.T, object json.RawMessage) string {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		t.Fatalf("no JSON object: %v\n%s", err, object)
	}
	return strings.Join(slices.Sorted(maps.Keys(members)), " ")
}

// TestJSONOutput pins the JSON interface: members may be added, never renamed or removed.
func TestJSONOutput(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true, Extra: []string{"-device", "pcie-root-port,id=pci.5,chassis=5,slot=5"}})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	xml := serialXML(t, edited(t, v.DiskXML("sda", "scsi"), "bus='scsi'/>", "bus='scsi'/><address type='drive' controller='0' bus='0' target='2' unit='7'/>"), "pinned")
	args := append([]string{"--output", "json"}, attachArgs(t, v, xml)...)

	const disk = "device driver header parts payload read_only size state target unlock uuid"
	const attached = "address already_attached bus cleared device driver header milliseconds parts payload read_only serial size state steps target unlock unlock_milliseconds uuid"
	wantKeys := func(object json.RawMessage, want string) {
		t.Helper()
		got := strings.Fields(keysOf(t, object))
		for _, key := range strings.Fields(want) {
			if !slices.Contains(got, key) {
				t.Errorf("no %q among %q", key, got)
			}
		}
	}
	first := tool(ctx, t, q.Socket, args...).want(t, 0)
	// A SCSI disk has no PCI address.
	wantKeys(json.RawMessage(first.stdout), strings.TrimPrefix(attached, "address "))
	var got struct {
		Target, State, Device, Driver, Payload, Header, Bus, Serial string
		Size                                                        int64
		ReadOnly                                                    bool `json:"read_only"`
		Already                                                     bool `json:"already_attached"`
		Cleared                                                     []string
		Parts                                                       []string
		Milliseconds                                                float64
		Steps                                                       []struct{ Command, Subject string }
	}
	first.decode(t, &got)
	if got.Target != "sda" || got.State != "attached" || got.Device != "luksplug-sda" || got.Driver != "scsi-hd" || got.Payload != v.Payload ||
		got.Header != v.Header || got.Bus != "scsi0.0" || got.Serial != "pinned" || got.Size != v.Size || got.ReadOnly || got.Already || len(got.Cleared) > 0 {
		t.Errorf("attach: %+v", got)
	}
	if len(got.Parts) < 4 || got.Parts[0] != "device luksplug-sda" || got.Milliseconds <= 0 || len(got.Steps) < 5 || got.Steps[len(got.Steps)-1].Command == "" {
		t.Errorf("attach: parts %q, steps %+v, %v ms", got.Parts, got.Steps, got.Milliseconds)
	}
	again := tool(ctx, t, q.Socket, args...).want(t, 0)
	again.decode(t, &got)
	if !got.Already {
		t.Error("the second attach does not report the disk as already attached")
	}
	if one, two := keysOf(t, json.RawMessage(first.stdout)), keysOf(t, json.RawMessage(again.stdout)); one != two || got.Bus != "scsi0.0" || got.Serial != "pinned" {
		t.Errorf("the second attach has %s, bus %q, serial %q; the first one %s", two, got.Bus, got.Serial, one)
	}

	disks := disksIn[json.RawMessage](t, tool(ctx, t, q.Socket, "list", "--output", "json"))
	if len(disks) != 1 {
		t.Fatalf("list: %s", disks)
	}
	wantKeys(disks[0], disk+" bus serial encrypted")
	wantAllNodes(t, tool(ctx, t, q.Socket, "list", "--all", "--output", "json").want(t, 0), v)
	for _, text := range []string{"sda", "attached", "luksplug-sda", "64 MiB", v.Payload, v.Header} {
		if out := tool(ctx, t, q.Socket, "list").want(t, 0).stdout; !strings.Contains(out, text) {
			t.Errorf("no %q in the list:\n%s", text, out)
		}
	}

	detached := tool(ctx, t, q.Socket, "--output", "json", "detach", "sda").want(t, 0)
	wantKeys(json.RawMessage(detached.stdout), "changed milliseconds removed target")
	detached.wantStdout(t, `"changed": true`)
	none := tool(ctx, t, q.Socket, "--output", "json", "detach", "sda", "--ignore-missing").want(t, 0)
	wantKeys(json.RawMessage(none.stdout), "changed milliseconds removed target")
	none.wantStdout(t, `"removed": []`, `"changed": false`)
	wantSame(ctx, t, q, before)

	// A PCI disk at the address that libvirt would choose.
	xml = edited(t, v.DiskXML("vdb", "virtio"), "<target", "<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/><target")
	onPort := tool(ctx, t, q.Socket, append([]string{"--output", "json"}, attachArgs(t, v, xml)...)...).want(t, 0)
	wantKeys(json.RawMessage(onPort.stdout), strings.ReplaceAll(attached, " serial", ""))
	onPort.decode(t, &got)
	if got.Bus != "pci.5" {
		t.Errorf("the disk is on bus %q, its address says pci.5", got.Bus)
	}
}

// frontend is what the JSON of attach and list say of a disk in the guest.
type frontend struct {
	Bus, Address, Serial string
	GuestPath            string `json:"guest_path"`
	Encrypted            *bool
	Reopened             []string `json:"secrets_needed_by_migration"`
}

// TestFrontendInJSON: a repeated attach and list say of a disk in the guest what the attach has said.
func TestFrontendInJSON(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 3})
	encrypted := peer.NewVolume(t, peer.DetachedRaw)
	plain := sized(t, "plain.img", 8*peer.MiB)
	inside := peer.NewVolume(t, peer.Qcow2LUKS)
	for _, c := range []struct {
		args      []string
		encrypted bool
	}{
		{attachArgs(t, encrypted, serialXML(t, encrypted.DiskXML("vdb", "virtio"), "a-serial-of-27-characters-x")), true},
		{attachArgs(t, inside, serialXML(t, inside.DiskXML("vdc", "virtio"), "inside")), true},
		{[]string{"attach", writeFile(t, "plain.xml", "<disk type='file'><driver type='raw'/><source file='"+plain+"'/><target dev='vdd' bus='virtio'/><serial>plain</serial></disk>")}, false},
	} {
		args := append([]string{"--output", "json"}, c.args...)
		var first, again frontend
		tool(ctx, t, q.Socket, args...).want(t, 0).decode(t, &first)
		tool(ctx, t, q.Socket, args...).want(t, 0).decode(t, &again)
		disks := disksIn[frontend](t, tool(ctx, t, q.Socket, "list", "--output", "json"))
		listed := disks[len(disks)-1]
		if !slices.Equal(first.Reopened, again.Reopened) {
			t.Errorf("needed by a migration: %q, and of the first attach %q", again.Reopened, first.Reopened)
		}
		for _, f := range []frontend{first, again, listed} {
			if f.Encrypted == nil || *f.Encrypted != c.encrypted || f.Bus == "" || f.Address == "" || f.GuestPath == "" {
				t.Errorf("got %+v", f)
			}
			if f.Bus != first.Bus || f.Address != first.Address || f.Serial != first.Serial || f.GuestPath != first.GuestPath {
				t.Errorf("got %+v, and from the first attach %+v", f, first)
			}
		}
		text := tool(ctx, t, q.Socket, c.args...).want(t, 0)
		if strings.Contains(text.stdout, "not encrypted") == c.encrypted {
			t.Errorf("encrypted %t:\n%s", c.encrypted, text.stdout)
		}
	}
	tool(ctx, t, q.Socket, "list").want(t, 0).wantStdout(t, "by luksplug", "not encrypted")
}

// TestJSONOfErrors: with --output json an error is an object on standard error.
func TestJSONOfErrors(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("sda", "scsi"))...).want(t, 0)
	got := tool(ctx, t, q.Socket, "--output", "json", "detach", "sdb").want(t, 5)
	var failed struct {
		Error    string
		ExitCode int `json:"exit_code"`
		Held     []string
	}
	if err := json.Unmarshal([]byte(got.printed), &failed); err != nil || got.stdout != "" || failed.ExitCode != 5 ||
		!strings.Contains(failed.Error, "sdb") || !slices.Equal(failed.Held, []string{"sda"}) {
		t.Errorf("%v, %+v\n%s%s", err, failed, got.stdout, got.stderr)
	}
}

// wantAllNodes checks `list --all`, which shows the nodes of others as well.
func wantAllNodes(t *testing.T, r result, v *peer.Volume) {
	t.Helper()
	var all struct {
		Nodes []struct {
			Name   string `json:"node_name"`
			Driver string
			File   string
			Size   int64
			Target string
		}
	}
	r.decode(t, &all)
	found := map[string]string{}
	for _, n := range all.Nodes {
		found[n.Driver+" "+n.File] = n.Target
	}
	// QEMU has an ephemeral header instead of the volume's.
	for _, want := range []string{"file " + v.Payload, "file /dev/fdset/1900000000"} {
		if found[want] != "sda" {
			t.Errorf("no node %q of sda in %+v", want, all.Nodes)
		}
	}
}

// TestJSONOfRepair: leftovers of an interrupted run are listed, removed and reported.
func TestJSONOfRepair(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true})
	before := stateOf(ctx, t, q)
	var repaired struct {
		Removed []struct {
			Target, State string
			Parts         []string
		}
	}
	tool(ctx, t, q.Socket, "repair", "--output", "json").want(t, 0).decode(t, &repaired)
	if repaired.Removed == nil || len(repaired.Removed) > 0 {
		t.Errorf("there were no leftovers, and repair reports %+v", repaired)
	}
	for _, node := range []string{"luksplug-vdb-payload-storage", "not-ours"} {
		must.Get(q.Query(ctx, "blockdev-add", map[string]any{"driver": "null-co", "node-name": node, "read-zeroes": true}))(t)
	}
	must.Get(q.Query(ctx, "object-add", map[string]any{"qom-type": "secret", "id": "luksplug-vdb-secret0", "data": "x"}))(t)
	listed := tool(ctx, t, q.Socket, "list").want(t, 0).wantStdout(t, "leftover", "vdb: left by an interrupted run: node luksplug-vdb-payload-storage\n")
	if strings.Index(listed.stdout, "SIZE") > 40 {
		t.Errorf("the parts are in the table:\n%s", listed.stdout)
	}
	tool(ctx, t, q.Socket, "repair", "--output", "json").want(t, 0).decode(t, &repaired)
	if len(repaired.Removed) != 1 || repaired.Removed[0].Target != "vdb" || repaired.Removed[0].State != "leftover" ||
		!slices.Equal(repaired.Removed[0].Parts, []string{"node luksplug-vdb-payload-storage", "object luksplug-vdb-secret0"}) {
		t.Errorf("repair: %+v", repaired)
	}
	if _, err := q.Query(ctx, "blockdev-del", map[string]any{"node-name": "not-ours"}); err != nil {
		t.Errorf("repair has removed a node that is not luksplug's: %v", err)
	}
	wantSame(ctx, t, q, before)
}
