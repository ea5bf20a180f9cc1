package integration

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// keptHost is a host that holds keys for its VMs only.
type keptHost struct {
	*hookHost
	t *testing.T
}

func newKeptHost(ctx context.Context, t *testing.T) *keptHost {
	t.Helper()
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{Hook: "#!/bin/sh\nexit 0\n", Configuration: "keystores: ['vm:']\n"})
	h := &keptHost{&hookHost{l, t.TempDir()}, t}
	inside(ctx, t, l, "hook", "install").want(t, 0)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the hook's log: %s", h.logged(t))
		}
	})
	return h
}

// give puts a volume's passphrase onto the host for the VM of the tests.
func (h *keptHost) give(ctx context.Context, v *peer.Volume) {
	h.t.Helper()
	const uri = "vm:?uuid=" + hookUUID
	document := writeFile(h.t, "secret.xml", "<secret><uuid>"+v.SecretUUID+"</uuid></secret>")
	inside(ctx, h.t, h.Libvirt, "--keystore", uri, "secret", "define", document).want(h.t, 0)
	inside(ctx, h.t, h.Libvirt, "--keystore", uri, "secret", "set-value", v.SecretUUID, "--file", v.PassphraseFile).want(h.t, 0)
}

// reboot takes what a reboot of the host takes.
func (h *keptHost) reboot(ctx context.Context) {
	h.t.Helper()
	h.shell(ctx, h.t, "rm -rf /run/luksplug/*")
}

// keys returns how many values the VM has in memory and on the disk.
func (h *keptHost) keys(ctx context.Context) (memory, disk int) {
	h.t.Helper()
	count := func(place, pattern string) int {
		return len(strings.Fields(h.shell(ctx, h.t, fmt.Sprintf("find /%s/luksplug/keys/%s -type f %s 2>/dev/null || :", place, hookUUID, pattern))))
	}
	return count("run", "! -name '.*' ! -name '*.xml' ! -name vm.json"), count("var/lib", "-name '*.age'")
}

// want checks where the VM's keys are, now.
func (h *keptHost) want(ctx context.Context, when string, memory, disk int) {
	h.t.Helper()
	if m, d := h.keys(ctx); m != memory || d != disk {
		h.t.Errorf("%s: %d keys are in memory and %d on the disk, want %d and %d", when, m, d, memory, disk)
	}
}

// wantGone waits until nothing of the VM is left.
func (h *keptHost) wantGone(ctx context.Context, when string, within time.Duration) {
	h.t.Helper()
	left := ""
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		left = h.shell(ctx, h.t, "ls -d /run/luksplug/keys/"+hookUUID+" /var/lib/luksplug/keys/"+hookUUID+" 2>/dev/null || :")
		if left == "" {
			return
		}
		if time.Since(start) > within {
			h.t.Errorf("%s: left is %s", when, left)
			return
		}
	}
}

// wantNotInClear checks that no file of the host's disk has a passphrase.
func (h *keptHost) wantNotInClear(v *peer.Volume) {
	h.t.Helper()
	must.OK(h.t, filepath.WalkDir(filepath.Join(h.Dir, "luksplug"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, v.Passphrase) || bytes.Contains(text, []byte("AGE-SECRET-KEY")) {
			h.t.Errorf("%s has a key in clear", path)
		}
		return err
	}))
}

// ends ends a domain's QEMU without libvirt, as a guest does.
func (h *keptHost) ends(ctx context.Context, name string) {
	h.t.Helper()
	_, _ = h.Virsh(ctx, "qemu-monitor-command", name, `{"execute":"quit"}`) // whose answer may be lost
	state := ""
	for range 100 {
		var err error
		if state, err = h.Virsh(ctx, "domstate", "--reason", name); err != nil || strings.HasPrefix(state, "shut off") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.t.Errorf("domain %s does not end: it is %s", name, state)
}

// TestVMKeysFollowTheDefinition: the keys of a domain are encrypted on the disk, survive every end of
// it and a reboot of the host, and are destroyed once it is undefined, also without a libvirtd.
func TestVMKeysFollowTheDefinition(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newKeptHost(ctx, t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.give(ctx, v)
	h.want(ctx, "before the domain is defined", 1, 0)
	prune := func(says string, args ...string) {
		t.Helper()
		inside(ctx, t, h.Libvirt, append([]string{"secret", "prune"}, args...)...).want(t, 0).wantStdout(t, says)
	}
	prune("expected")
	h.want(ctx, "after that", 1, 0)
	d := h.defineWith(ctx, t, peer.DomainOptions{}, plugged{volume: v, target: "vdb"})
	start := func() {
		t.Helper()
		virsh(ctx, t, h.Libvirt, "start", "--paused", d.Name)
		h.tool(ctx, t, d, "list").want(t, 0).wantStdout(t, "vdb")
	}
	prune("moved")
	h.want(ctx, "once it is defined", 0, 1)
	h.wantNotInClear(v)
	h.tool(ctx, t, d, "hook", "check").want(t, 0).wantStdout(t, "encrypted")
	h.reboot(ctx)
	for when, end := range map[string]func(){
		"destroyed": func() { virsh(ctx, t, h.Libvirt, "destroy", d.Name) },
		"ended":     func() { h.ends(ctx, d.Name) },
		"saved": func() {
			virsh(ctx, t, h.Libvirt, "managedsave", d.Name)
			prune("defined")
			start()
			virsh(ctx, t, h.Libvirt, "destroy", d.Name)
		},
	} {
		start()
		prune("running")
		inside(ctx, t, h.Libvirt, "secret", "prune", "--vm", hookUUID).want(t, 5).wantStderr(t, "running")
		end()
		h.want(ctx, "after it was "+when, 0, 1)
	}
	h.reboot(ctx)
	inside(ctx, t, h.Libvirt, "secret", "prune", "--vm", hookUUID).want(t, 5).wantStderr(t, "defined")

	// A domain of another name does not get them.
	virsh(ctx, t, h.Libvirt, "domrename", d.Name, "web1")
	if _, err := h.Virsh(ctx, "start", "web1"); err == nil || !strings.Contains(err.Error(), "secret renamed") {
		t.Errorf("a renamed domain: %v", err)
	}
	inside(ctx, t, h.Libvirt, "secret", "renamed", "web1").want(t, 0)
	virsh(ctx, t, h.Libvirt, "start", "--paused", "web1")
	h.ends(ctx, "web1")
	h.want(ctx, "after it was renamed", 0, 1)

	virsh(ctx, t, h.Libvirt, "undefine", "web1")
	h.wantGone(ctx, "soon after it was undefined", 10*time.Second)
	prune("holds no keys")
}

// TestVMKeysOfARunningDomain: a domain that is undefined while it runs has its keys until its end, and a
// transient one loses them then, unless it was saved.
func TestVMKeysOfARunningDomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newKeptHost(ctx, t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.give(ctx, v)
	d := h.defineWith(ctx, t, peer.DomainOptions{}, plugged{volume: v, target: "vdb"})
	xml := writeFile(t, "transient.xml", virsh(ctx, t, h.Libvirt, "dumpxml", d.Name))
	virsh(ctx, t, h.Libvirt, "start", "--paused", d.Name)
	virsh(ctx, t, h.Libvirt, "undefine", d.Name)
	if m, n := h.keys(ctx); m+n == 0 { // one may be on its way to the disk
		t.Error("while it runs, it has no key")
	}
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantGone(ctx, "after its end", 0)

	create := func() {
		t.Helper()
		virsh(ctx, t, h.Libvirt, "create", "--paused", xml)
	}
	h.give(ctx, v)
	create()
	h.want(ctx, "of a transient domain", 1, 0)
	state := filepath.Join(t.TempDir(), "state")
	virsh(ctx, t, h.Libvirt, "save", d.Name, state)
	h.want(ctx, "after it was saved", 1, 0)
	inside(ctx, t, h.Libvirt, "secret", "prune").want(t, 0).wantStdout(t, "saved")
	virsh(ctx, t, h.Libvirt, "restore", "--paused", state)
	h.ends(ctx, d.Name)
	h.wantGone(ctx, "after it has shut down", 0)

	h.give(ctx, v)
	inside(ctx, t, h.Libvirt, "secret", "prune", "--older-than", "1h").want(t, 0).wantStdout(t, "kept")
	inside(ctx, t, h.Libvirt, "secret", "prune", "--vm", hookUUID, "--dry-run").want(t, 0).wantStdout(t, "to be destroyed")
	inside(ctx, t, h.Libvirt, "secret", "prune", "--vm", hookUUID).want(t, 0).wantStdout(t, "destroyed")
	h.wantGone(ctx, "after it was removed", 0)
}

// TestVMKeysWithoutLibvirtd: keys of a VM that is gone are destroyed although no libvirtd runs, and of one
// whose definition cannot be read they are not.
func TestVMKeysWithoutLibvirtd(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newKeptHost(ctx, t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.give(ctx, v)
	d := h.defineWith(ctx, t, peer.DomainOptions{}, plugged{volume: v, target: "vdb"})
	inside(ctx, t, h.Libvirt, "secret", "prune").want(t, 0).wantStdout(t, "moved")
	h.shell(ctx, t, "mv /etc/libvirt/qemu /etc/libvirt/away")
	inside(ctx, t, h.Libvirt, "secret", "prune").want(t, 0).wantStdout(t, "defined")
	h.shell(ctx, t, "mv /etc/libvirt/away /etc/libvirt/qemu")
	virsh(ctx, t, h.Libvirt, "undefine", d.Name)
	h.shell(ctx, t, "mv /run/libvirt/libvirt-sock /run/libvirt/away; echo '<domain' > /etc/libvirt/qemu/damaged.xml")
	inside(ctx, t, h.Libvirt, "secret", "prune").want(t, 1).wantStderr(t, "damaged.xml")
	h.want(ctx, "while a definition cannot be read", 0, 1)
	h.shell(ctx, t, "rm /etc/libvirt/qemu/damaged.xml")
	inside(ctx, t, h.Libvirt, "secret", "prune", "--output", "json").want(t, 0).wantStdout(t, `"state": "gone"`)
	h.wantGone(ctx, "without a libvirtd", 0)
}
