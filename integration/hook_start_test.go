package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestHookWithoutADisk: a domain that has the monitor and no disk starts, before its first disk and after
// its last one: the first thing that an operator does.
func TestHookWithoutADisk(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]string{"root": "", "QEMU's user": qemuUser} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			h := newHookHost(t, user)
			d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, Off: true, SCSI: true}))(t)
			starts := func() {
				t.Helper()
				virsh(ctx, t, h.Libvirt, "start", d.Name)
				h.tool(ctx, t, d, "list").want(t, 0)
				virsh(ctx, t, h.Libvirt, "destroy", d.Name)
				h.wantClean(ctx, t)
			}
			inside(ctx, t, h.Libvirt, "hook", "enable", d.Name, "--yes").want(t, 0)
			starts()
			v := userVolume(ctx, t, peer.EmbeddedLUKS)
			h.learn(t, v)
			h.tool(ctx, t, d, append(attachArgs(t, v, v.DiskXML("vdb", "virtio")), "--persistent", "--relabel")...).want(t, 0)
			starts()
			h.tool(ctx, t, d, "detach", "--persistent", "vdb").want(t, 0)
			starts()
			// The configuration is for disks.
			file := filepath.Join(h.Dir, "luksplug", "etc", "config.yaml")
			usual := must.Get(os.ReadFile(file))(t)
			must.OK(t, os.WriteFile(file, []byte("keystore: none\n"), 0o644))
			virsh(ctx, t, h.Libvirt, "start", d.Name)
			virsh(ctx, t, h.Libvirt, "destroy", d.Name)
			must.OK(t, os.WriteFile(file, usual, 0o644))
			// What libvirt has reported is lost: there is its configuration.
			run(ctx, t, h.Inside(ctx, "rm", "-f", "/var/lib/luksplug/qemu-user.json")).want(t, 0)
			starts()
		})
	}
}

// wantRefused checks that the domain's next start is refused to promise, and that nothing was changed.
func (h *hookHost) wantRefused(ctx context.Context, t *testing.T, d *peer.Domain, code int, says string, args ...string) {
	t.Helper()
	got := h.tool(ctx, t, d, args...).want(t, code)
	wantOneLine(t, got, says)
	wantNoRecord(ctx, t, h.Libvirt, d, "--config")
}

// TestNextStart: what the next start of a domain would lack is refused now, while it runs and while it is off, and
// hook check says it at any time.
func TestNextStart(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	keys := t.TempDir()
	h := &hookHost{peer.LibvirtdWith(t, peer.LibvirtOptions{Hook: "#!/bin/sh\nexit 0\n", Configuration: "keystores: ['dir:" + keys + "', 'dir:/run/luksplug/keys']\n"}), keys}
	run(ctx, t, h.Inside(ctx, "mkdir", "-m", "700", "/run/luksplug/keys")).want(t, 0)
	running := must.Get(h.StartDomain(ctx, peer.DomainOptions{Name: "running", Persistent: true, SCSI: true}))(t)
	off := must.Get(h.StartDomain(ctx, peer.DomainOptions{Name: "off", Persistent: true, Off: true, SCSI: true}))(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	attach := append(attachArgs(t, v, v.DiskXML("sda", "scsi")), "--persistent")
	both := func(code int, says string, args ...string) {
		t.Helper()
		for _, d := range []*peer.Domain{running, off} {
			h.wantRefused(ctx, t, d, code, says, args...)
		}
		wantNoRecord(ctx, t, h.Libvirt, running, "--live")
	}
	both(5, "hook install", attach...)
	for _, d := range []*peer.Domain{running, off} {
		definition := virsh(ctx, t, h.Libvirt, "dumpxml", "--inactive", d.Name)
		got := inside(ctx, t, h.Libvirt, "hook", "enable", d.Name, "--yes").want(t, 5)
		wantOneLine(t, got, "hook install")
		if now := virsh(ctx, t, h.Libvirt, "dumpxml", "--inactive", d.Name); now != definition {
			t.Errorf("the definition has changed: %s", now)
		}
	}
	inside(ctx, t, h.Libvirt, "hook", "install").want(t, 0)
	undo := moved(t, filepath.Join(h.Dir, "etc", "hooks", "qemu.d", "test"))
	must.OK(t, os.Chmod(filepath.Join(h.Dir, "etc", "hooks", "qemu.d", "test.away"), 0o644))
	both(5, "restart it once", attach...) // it had no hook, as far as this can be seen
	undo()
	must.OK(t, os.Chmod(filepath.Join(h.Dir, "etc", "hooks", "qemu.d", "test"), 0o755))
	both(5, "restart it once", attach...) // it may not have been there, or not executable, when libvirtd started
	must.OK(t, h.Restart(ctx))
	both(5, "hook enable", attach...)
	both(5, "hook enable", append(attach, "--optional")...)
	h.tool(ctx, t, off, "hook", "check").want(t, 0).wantStdout(t, "hook enable")
	for _, d := range []*peer.Domain{running, off} {
		inside(ctx, t, h.Libvirt, "hook", "enable", d.Name, "--yes").want(t, 0)
	}

	// The attach has the passphrase, and the hook has not.
	refused := func(code int, says string) {
		t.Helper()
		for _, d := range []*peer.Domain{running, off} {
			got := h.tool(ctx, t, d, attach...).want(t, code)
			wantOneLine(t, got, says)
			if text := metadata(ctx, h.Libvirt, d.Name, "--config"); strings.Contains(text, "sda") {
				t.Errorf("recorded: %s", text)
			}
		}
		wantNoRecord(ctx, t, h.Libvirt, running, "--live")
	}
	refused(4, "no such secret")
	h.learn(t, v)
	key := h.keyFile(t, v)
	undo = rewritten(t, key, func([]byte) []byte { return []byte("another") })
	refused(4, "passphrase")
	undo()
	must.OK(t, os.Chmod(key, 0o644))
	refused(4, "access denied")
	must.OK(t, os.Chmod(key, 0o600))

	// In memory it is there now, which is said.
	run(ctx, t, h.Inside(ctx, "mv", key, "/run/luksplug/keys/")).want(t, 0)
	for _, d := range []*peer.Domain{running, off} {
		h.tool(ctx, t, d, attach...).want(t, 0).wantStderr(t, "after a reboot of the host")
		h.tool(ctx, t, d, "hook", "check").want(t, 0).wantStdout(t, "after a reboot of the host").wantStdout(t, "disk sda: the domain starts with it")
		if d == running {
			virsh(ctx, t, h.Libvirt, "destroy", d.Name)
		}
		virsh(ctx, t, h.Libvirt, "start", d.Name)
		h.tool(ctx, t, d, "list").want(t, 0).wantStdout(t, "attached")
		h.tool(ctx, t, d, "hook", "check").want(t, 0) // while it is attached
		virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	}
	undo = moved(t, v.Header)
	h.tool(ctx, t, off, "hook", "check").want(t, 5).wantStdout(t, "BAD", "does not start", "no such file")
	undo()
	redefine := func(from, to string) {
		t.Helper()
		xml := virsh(ctx, t, h.Libvirt, "dumpxml", "--inactive", "--security-info", off.Name)
		virsh(ctx, t, h.Libvirt, "define", writeFile(t, "domain.xml", edited(t, xml, from, to)))
	}
	redefine("<acpi/>", "")
	h.tool(ctx, t, off, "hook", "check").want(t, 0).wantStdout(t, "<acpi/>")

	got := inside(ctx, t, h.Libvirt, "hook", "uninstall").want(t, 5)
	wantOneLine(t, got, running.Name, off.Name, "hook disable")
	inside(ctx, t, h.Libvirt, "hook", "uninstall", "--force").want(t, 0).wantStdout(t, "removed")
}

// TestSavedWithoutHook: attach says that there is no hook, and the way out of libvirt's message, which
// docs/hooks.md has, works.
func TestSavedWithoutHook(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	keys := t.TempDir()
	h := &hookHost{peer.LibvirtdWith(t, peer.LibvirtOptions{Hook: "#!/bin/sh\nexit 0\n", Configuration: "keystores: ['dir:" + keys + "']\n"}), keys}
	d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true, Movable: true}))(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.learn(t, v)
	got := h.tool(ctx, t, d, attachArgs(t, v, v.DiskXML("sda", "scsi"))...).want(t, 0)
	got.wantStdout(t, "detach the disk first", "hook install")
	h.tool(ctx, t, d, append([]string{"--output", "json"}, attachArgs(t, v, v.DiskXML("sda", "scsi"))...)...).want(t, 0).wantStdout(t, `"without_hook"`)
	virsh(ctx, t, h.Libvirt, "managedsave", d.Name)
	_, err := h.Virsh(ctx, "start", d.Name)
	if err == nil {
		t.Fatal("the domain starts without its disk")
	}
	t.Log(err)
	said := must.Get(os.ReadFile("../docs/hooks.md"))(t)
	if message := "load of migration failed"; !strings.Contains(err.Error(), message) || !strings.Contains(string(said), message) {
		t.Errorf("docs/hooks.md must have libvirt's message: %v", err)
	}
	inside(ctx, t, h.Libvirt, "hook", "install").want(t, 0)
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	h.tool(ctx, t, d, "list").want(t, 0).wantStdout(t, "attached")
	after := h.tool(ctx, t, d, attachArgs(t, v, v.DiskXML("sda", "scsi"))...).want(t, 0)
	if strings.Contains(after.stdout, "detach") {
		t.Errorf("with the hook: %s", after.stdout)
	}
}
