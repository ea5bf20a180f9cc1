package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// inside runs the program in the namespaces of a libvirtd.
func inside(ctx context.Context, t *testing.T, l *peer.Libvirt, args ...string) result {
	t.Helper()
	return run(ctx, t, l.Inside(ctx, luksplug, append([]string{"--connect", l.URI}, args...)...))
}

// TestHookFromTheBeginning follows the documents for an administrator: install the hook, enable a domain,
// attach disks, start it.
func TestHookFromTheBeginning(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	keys := t.TempDir()
	// With a hook of the site's, libvirtd need not be restarted.
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{Hook: "#!/bin/sh\nexit 0\n", Configuration: "keystores: ['dir:" + keys + "']\n"})
	h := &hookHost{l, keys}
	inside(ctx, t, l, "hook", "check").want(t, 5).wantStdout(t, "BAD", "not installed")
	for _, said := range []string{"wrote ", "there already"} {
		if got := inside(ctx, t, l, "hook", "install").want(t, 0); !strings.Contains(got.stdout, said) || strings.Contains(got.stdout, "restart") {
			t.Errorf("install says %s, want %s", got.stdout, said)
		}
	}
	inside(ctx, t, l, "hook", "check").want(t, 0)

	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Guest: true, Persistent: true, Off: true}))(t)
	definition := virsh(ctx, t, l, "dumpxml", d.Name)
	refused := inside(ctx, t, l, "hook", "enable", d.Name).want(t, 2)
	if !strings.Contains(refused.stderr, "--yes") || !strings.Contains(refused.stdout, "+    <qemu:arg value='chardev=luksplug-monitor,mode=control'/>") {
		t.Errorf("enable without a terminal says %s %s", refused.stdout, refused.stderr)
	}
	inside(ctx, t, l, "hook", "enable", d.Name, "--dry-run").want(t, 0)
	if now := virsh(ctx, t, l, "dumpxml", d.Name); now != definition {
		t.Errorf("the definition has changed:\n%s\nwas\n%s", now, definition)
	}
	inside(ctx, t, l, "hook", "enable", d.Name, "--cold-plug", "--yes").want(t, 0)
	inside(ctx, t, l, "hook", "enable", d.Name, "--cold-plug", "--yes").want(t, 0).wantStdout(t, "already")

	disks := []plugged{{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb"}, {volume: peer.NewVolume(t, peer.EmbeddedLUKS), target: "vdc"}}
	for _, p := range disks {
		h.learn(t, p.volume)
		xml := writeFile(t, p.target+".xml", serialXML(t, p.volume.DiskXML(p.target, "virtio"), "serial-"+p.target))
		args := []string{"--domain", d.Name, "attach", "--persistent", xml}
		if p.target == "vdc" {
			args = append(args, "--optional") // so it is attached after the start
		}
		inside(ctx, t, l, args...).want(t, 0)
	}
	h.start(ctx, t, d, disks...)
	wantNoObjects(ctx, t, d)
	for _, disk := range listOf(ctx, t, l, d.Name) {
		if disk.State != "attached" || disk.Difference != "" {
			t.Errorf("got %+v", disk)
		}
	}
	virsh(ctx, t, l, "destroy", d.Name)
	h.wantClean(ctx, t)

	// One image is missing: the domain does not start without it.
	must.OK(t, os.Remove(disks[1].volume.Payload))
	h.start(ctx, t, d, disks[0])
	virsh(ctx, t, l, "destroy", d.Name)
	must.OK(t, os.Remove(h.keyFile(t, disks[0].volume)))
	if err := d.Start(ctx); err == nil || !strings.Contains(err.Error(), "no such secret") {
		t.Errorf("without its key: %v", err)
	}
	h.wantClean(ctx, t)

	inside(ctx, t, l, "hook", "disable", d.Name, "--yes").want(t, 5) // it has disks
	for _, target := range []string{"vdb", "vdc"} {
		inside(ctx, t, l, "--domain", d.Name, "detach", "--persistent", target).want(t, 0)
	}
	inside(ctx, t, l, "hook", "disable", d.Name, "--yes").want(t, 0)
	if now := virsh(ctx, t, l, "dumpxml", d.Name); strings.Contains(now, "luksplug-monitor") || strings.Contains(now, "luksplug-port") || strings.Contains(now, libvirtvm.Namespace) {
		t.Errorf("left in the definition:\n%s", now)
	}
	inside(ctx, t, l, "hook", "uninstall").want(t, 0).wantStdout(t, "removed")
	if left, err := filepath.Glob(filepath.Join(l.Dir, "etc", "hooks", "*", "*")); err != nil || len(left) != 1 {
		t.Errorf("hooks: %v %v", left, err)
	}
}

// TestHookOfALibvirtdWithoutHooks: a libvirtd that was started without a hook runs none that was put there since, and
// install and check say so until it is restarted.
func TestHookOfALibvirtdWithoutHooks(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{Hook: "#!/bin/sh\nexit 0\n", Configuration: "keystores: ['dir:" + t.TempDir() + "']\n"})
	hooks := filepath.Join(l.Dir, "etc", "hooks")
	must.OK(t, os.Remove(filepath.Join(hooks, "qemu.d", "test")))
	must.OK(t, l.Restart(ctx))

	ran := filepath.Join(t.TempDir(), "ran")
	dispatcher := filepath.Join(hooks, "qemu")
	must.OK(t, os.WriteFile(dispatcher, []byte("#!/bin/sh\necho \"$2\" >> '"+ran+"'\n"), 0o755))
	old := time.Now().Add(-24 * time.Hour) // as cp -p and packages set it
	must.OK(t, os.Chtimes(dispatcher, old, old))
	for range 2 {
		inside(ctx, t, l, "hook", "install").want(t, 0).wantStdout(t, "restart libvirtd")
	}
	inside(ctx, t, l, "--output", "json", "hook", "install").want(t, 0).wantStdout(t, `"restart_libvirtd": true`)
	inside(ctx, t, l, "hook", "check").want(t, 5).wantStdout(t, "BAD", "had no hook", "restart it once")

	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true}))(t)
	if text, err := os.ReadFile(ran); err == nil {
		t.Errorf("libvirtd has run the hook: %s", text)
	}
	must.OK(t, l.Restart(ctx))
	inside(ctx, t, l, "hook", "check").want(t, 0)
	inside(ctx, t, l, "--output", "json", "hook", "install").want(t, 0).wantStdout(t, `"restart_libvirtd": false`)
	virsh(ctx, t, l, "destroy", d.Name)
	if text, err := os.ReadFile(ran); err != nil || !strings.Contains(string(text), "release") {
		t.Errorf("libvirtd has not run the hook after its restart: %q %v", text, err)
	}
	inside(ctx, t, l, "hook", "uninstall").want(t, 0)
}
