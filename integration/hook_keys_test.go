package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// push puts the passphrase of a volume onto the host for the domain, and for another one, as a management
// server does.
func (h *hookHost) push(ctx context.Context, t *testing.T, v *peer.Volume) {
	t.Helper()
	uri := "vm:?uuid=" + hookUUID
	document := writeFile(t, "secret.xml", "<secret ephemeral='yes'><uuid>"+v.SecretUUID+"</uuid></secret>")
	run(ctx, t, h.Inside(ctx, luksplug, "--keystore", uri, "secret", "define", document)).want(t, 0)
	run(ctx, t, h.Inside(ctx, luksplug, "--keystore", uri, "secret", "set-value", v.SecretUUID, "--file", v.PassphraseFile)).want(t, 0)
	h.shell(ctx, t, fmt.Sprintf("mkdir -p -m 700 %[1]s/%[2]s; cp %[3]s %[1]s/%[2]s/%[4]s; chmod 600 %[1]s/%[2]s/*", vmkeys.Dir, otherUUID, v.PassphraseFile, v.SecretUUID))
}

const otherUUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

// shell runs a line of shell on the host.
func (h *hookHost) shell(ctx context.Context, t *testing.T, line string) string {
	t.Helper()
	out, err := h.Inside(ctx, "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// wantKeys checks whether the domain has keys on the host. The other domain always has.
func (h *hookHost) wantKeys(ctx context.Context, t *testing.T, when string, want bool) {
	t.Helper()
	got := h.shell(ctx, t, "find "+vmkeys.Dir+" -type f ! -name .lock")
	if strings.Contains(got, hookUUID) != want {
		t.Errorf("%s there is %s", when, got)
	}
	if !strings.Contains(got, otherUUID) {
		t.Errorf("%s nothing of the other VM is left: %s", when, got)
	}
}

// wantKeysGone waits until the domain has no keys on the host.
func (h *hookHost) wantKeysGone(ctx context.Context, t *testing.T, when string) {
	t.Helper()
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(100 * time.Millisecond) {
		if !strings.Contains(h.shell(ctx, t, "find "+vmkeys.Dir), hookUUID) {
			break
		}
	}
	h.wantKeys(ctx, t, when, false)
}

// TestHookDestroysKeys: a host holds the keys of a VM while its domain is defined, and until it has migrated.
func TestHookDestroysKeys(t *testing.T) {
	peer.Long(t, "two libvirtds and a guest")
	t.Parallel()
	ctx := bounded(t)
	from, to := newFaultyHost(t), newFaultyHost(t)
	disks := []plugged{{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true}, {volume: peer.NewVolume(t, peer.EmbeddedLUKS), target: "vdc"}}
	later := peer.NewVolume(t, peer.EmbeddedLUKS)
	d := from.define(ctx, t, disks...)
	from.shareKey(t, to.hookHost)
	for _, p := range disks {
		moved(t, from.keyFile(t, p.volume)) // not undone: only the VM's own keys remain
		to.learn(t, p.volume)
	}
	to.learn(t, later)
	give := func() {
		t.Helper()
		for _, v := range []*peer.Volume{disks[0].volume, disks[1].volume, later} {
			from.push(ctx, t, v)
		}
	}
	start := func() {
		t.Helper()
		virsh(ctx, t, from.Libvirt, "start", "--paused", d.Name)
	}
	if _, err := from.Virsh(ctx, "start", "--paused", d.Name); err == nil || !strings.Contains(err.Error(), "no such secret") {
		t.Fatalf("without keys: %v", err)
	}
	give()
	start()
	virsh(ctx, t, from.Libvirt, "managedsave", d.Name)
	from.wantKeys(ctx, t, "while it is saved", true)
	start()
	// Without ?uuid=: the store takes the VM of the attach.
	from.tool(ctx, t, d, "--keystore", "vm:", "attach", writeFile(t, "later.xml", later.DiskXML("vdd", "virtio"))).want(t, 0)
	virsh(ctx, t, from.Libvirt, "destroy", d.Name)
	from.wantKeys(ctx, t, "after it was destroyed", true)

	start()
	must.Get(to.Receive(d))(t)
	migrate := func() error {
		_, err := from.Virsh(ctx, "migrate", "--live", "--unsafe", "--persistent", "--undefinesource",
			"--migrateuri", "unix://"+filepath.Join(t.TempDir(), "migration"), d.Name, to.URI)
		return err
	}
	// A fault at the destination does not affect the source.
	for _, f := range []hookFault{
		{"no key", func() func() { return moved(t, to.keyFile(t, disks[0].volume)) }, "no such secret"},
		{"the program is missing", func() func() { return to.replace(t, "") }, "the program is not there"},
		{"the program is killed at migrate", func() func() { return to.killedAt(t, "migrate") }, killed},
		{"the program is killed at started", func() func() { return to.killedAt(t, "started") }, killed},
		{"a bug", func() func() { return to.replace(t, asBrokenHook(t)) }, "a fault in luksplug"},
		{"the configuration is broken", func() func() { return to.configure(t, "keystore: none\n") }, "configuration"},
	} {
		undo := f.make()
		err := migrate()
		undo()
		if err == nil || !strings.Contains(err.Error(), f.says) {
			t.Fatalf("%s: virsh says %v, want %q", f.name, err, f.says)
		}
		if state := virsh(ctx, t, from.Libvirt, "domstate", d.Name); state != "paused" {
			t.Fatalf("%s: the domain is %s", f.name, state)
		}
		from.wantKeys(ctx, t, f.name+":", true)
		to.wantClean(ctx, t)
	}
	must.OK(t, migrate())
	from.wantKeysGone(ctx, t, "after it has moved") // its definition is removed after the hook was called
	if state := virsh(ctx, t, to.Libvirt, "domstate", d.Name); state != "paused" {
		t.Errorf("the domain is %s", state)
	}
}
