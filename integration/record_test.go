package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// recordedDisk is a disk as list shows it.
type recordedDisk struct {
	Target, State, Difference string
	Recorded                  []string
}

func listOf(ctx context.Context, t *testing.T, l *peer.Libvirt, domain string) []recordedDisk {
	t.Helper()
	return disksIn[recordedDisk](t, viaVirsh(ctx, t, l, domain, "--output", "json", "list"))
}

// metadata returns luksplug's metadata of a domain, "" for none.
func metadata(ctx context.Context, l *peer.Libvirt, domain string, scope string) string {
	out, err := l.Virsh(ctx, "metadata", domain, "--uri", libvirtvm.Namespace, scope)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// wantNoRecord checks that a domain has no metadata of luksplug's.
func wantNoRecord(ctx context.Context, t *testing.T, l *peer.Libvirt, d *peer.Domain, scopes ...string) {
	t.Helper()
	for _, scope := range scopes {
		if text := metadata(ctx, l, d.Name, scope); text != "" {
			t.Errorf("recorded (%s): %s", scope, text)
		}
	}
}

// wantRecorded checks list's output for a domain.
func wantRecorded(ctx context.Context, t *testing.T, l *peer.Libvirt, d *peer.Domain, want ...recordedDisk) {
	t.Helper()
	if got := listOf(ctx, t, l, d.Name); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("list shows %v, want %v", got, want)
	}
}

// TestRecord: the domain's live metadata record the attached disks, and its persistent metadata the disks of
// its next start; list shows differences and repair fixes them.
func TestRecord(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	l := h.Libvirt
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true}))(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	h.learn(t, v)
	inside(ctx, t, l, "hook", "enable", d.Name, "--yes").want(t, 0)
	attach := append(attachArgs(t, v, v.DiskXML("sda", "scsi")), "--persistent")
	viaVirsh(ctx, t, l, d.Name, attach...).want(t, 0)
	for _, scope := range []string{"--live", "--config"} {
		if text := metadata(ctx, l, d.Name, scope); !strings.Contains(text, v.Payload) || strings.Contains(text, string(v.Passphrase)) {
			t.Errorf("%s: %s", scope, text)
		}
	}
	want := recordedDisk{"sda", "attached", "", []string{"live", "persistent"}}
	wantRecorded(ctx, t, l, d, want)
	viaVirsh(ctx, t, l, d.Name, attach...).want(t, 0) // changes nothing

	// The record is removed: repair writes it again.
	virsh(ctx, t, l, "metadata", d.Name, "--uri", libvirtvm.Namespace, "--live", "--remove")
	if got := listOf(ctx, t, l, d.Name); len(got) != 1 || !strings.Contains(got[0].Difference, "not in the domain's metadata") {
		t.Errorf("got %v", got)
	}
	viaVirsh(ctx, t, l, d.Name, "repair").want(t, 0)
	wantRecorded(ctx, t, l, d, want)

	// The disk is removed without luksplug.
	must.Get(must.Get(d.Monitor(ctx))(t).Execute(ctx, "device_del", map[string]any{"id": "luksplug-sda"}))(t)
	for ctx.Err() == nil && listOf(ctx, t, l, d.Name)[0].State != "leftover" {
		continue // the node stays in use for a moment after its device is gone
	}
	viaVirsh(ctx, t, l, d.Name, "repair").want(t, 0)
	if text := metadata(ctx, l, d.Name, "--live"); strings.Contains(text, "sda") {
		t.Errorf("still recorded: %s", text)
	}
	if got := listOf(ctx, t, l, d.Name); len(got) != 1 || got[0].State != "missing" || fmt.Sprint(got[0].Recorded) != "[persistent]" {
		t.Errorf("got %v", got)
	}
	// It is not attached: only the definition changes, which is a change.
	viaVirsh(ctx, t, l, d.Name, "--output", "json", "detach", "--persistent", "sda").want(t, 0).wantStdout(t, `"changed": true`, "definition")
	wantNoRecord(ctx, t, l, d, "--config")
	wantRecorded(ctx, t, l, d)
	viaVirsh(ctx, t, l, d.Name, "detach", "--persistent", "sda").want(t, 5)
	viaVirsh(ctx, t, l, d.Name, "--output", "json", "detach", "--persistent", "--ignore-missing", "sda").want(t, 0).wantStdout(t, `"changed": false`)

	// A failed attach leaves no record, and a transient disk is in the live record only.
	wrong := append([]string{"--passphrase-file", writeFile(t, "wrong", "wrong")}, attach[2:]...)
	viaVirsh(ctx, t, l, d.Name, wrong...).want(t, 4)
	viaVirsh(ctx, t, l, d.Name, append([]string{"--timeout", "1ns"}, attach...)...)
	wantNoRecord(ctx, t, l, d, "--live", "--config")
	viaVirsh(ctx, t, l, d.Name, attach[:len(attach)-1]...).want(t, 0)
	wantNoRecord(ctx, t, l, d, "--config")
	viaVirsh(ctx, t, l, d.Name, "detach", "sda").want(t, 0)
	wantNoRecord(ctx, t, l, d, "--live")
}

// TestRecordOfADomainThatIsOff: a disk is added to a domain that is off, and removed again.
func TestRecordOfADomainThatIsOff(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	l := h.Libvirt
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Persistent: true, Off: true, SCSI: true}))(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.learn(t, v)
	inside(ctx, t, l, "hook", "enable", d.Name, "--ports", "0", "--yes").want(t, 0)
	attach := attachArgs(t, v, v.DiskXML("sda", "scsi"))
	got := viaVirsh(ctx, t, l, d.Name, append(attach, "--persistent", "--optional")...).want(t, 0)
	if !strings.Contains(got.stdout, "from the next start on") || !strings.Contains(metadata(ctx, l, d.Name, "--config"), `optional="yes"`) {
		t.Errorf("got %s\n%s", got.stdout, metadata(ctx, l, d.Name, "--config"))
	}
	viaVirsh(ctx, t, l, d.Name, append(attach, "--persistent")...).want(t, 5) // it is there
	viaVirsh(ctx, t, l, d.Name, attach...).want(t, 5)                         // it does not run
	viaVirsh(ctx, t, l, d.Name, "detach", "--persistent", "sdb").want(t, 5)
	// list, repair and detach are about the definition.
	wantRecorded(ctx, t, l, d, recordedDisk{"sda", "off", "", []string{"persistent"}})
	viaVirsh(ctx, t, l, d.Name, "list").want(t, 0).wantStdout(t, v.Payload, "off")
	viaVirsh(ctx, t, l, d.Name, "repair").want(t, 0).wantStdout(t, "the domain is off, and nothing was left to repair")
	viaVirsh(ctx, t, l, d.Name, "detach", "sdb").want(t, 5).wantStderr(t, "sda")
	viaVirsh(ctx, t, l, d.Name, "detach", "--ignore-missing", "sdb").want(t, 0).wantStdout(t, "did not belong")
	viaVirsh(ctx, t, l, d.Name, "detach", v.Payload).want(t, 0).wantStdout(t, "removed from the definition of "+d.Name)
	wantNoRecord(ctx, t, l, d, "--config")
	viaVirsh(ctx, t, l, d.Name, append(attach, "--persistent", "--optional")...).want(t, 0)
	viaVirsh(ctx, t, l, d.Name, "detach", "--persistent", "sda").want(t, 0)
	wantNoRecord(ctx, t, l, d, "--config")
	wantRecorded(ctx, t, l, d)
	// A virtio disk has no port that is reserved for it.
	viaVirsh(ctx, t, l, d.Name, append(attachArgs(t, v, v.DiskXML("vdb", "virtio")), "--persistent")...).want(t, 5).wantStderr(t, "hook enable")
	viaVirsh(ctx, t, l, d.Name, append(attach, "--optional")...).want(t, 2)
}
