package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// qemuUser is as whom Debian's libvirt runs QEMU.
const qemuUser = "libvirt-qemu"

// userVolume makes a volume of root's where every user may pass: the test's own
// folder lies in one that only root may.
func userVolume(ctx context.Context, t *testing.T, kind peer.VolumeKind, format ...string) *peer.Volume {
	t.Helper()
	dir, err := os.MkdirTemp("", "luksplug-volume-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v, err := peer.CreateVolume(ctx, dir, kind, format...)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{v.Payload, v.Header} {
		if err := os.Chmod(path, 0o600); path != "" && err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// ownerOf returns user and group of a file.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func wantOwner(t *testing.T, path, want string) {
	t.Helper()
	if got := ownerOf(t, path); got != want {
		t.Errorf("%s belongs to %s, want %s", path, got, want)
	}
}

// fix runs the command that a refusal names.
func fix(ctx context.Context, t *testing.T, got result) {
	t.Helper()
	command := regexp.MustCompile("run `([^`]*)`").FindStringSubmatch(got.stderr)
	if command == nil {
		t.Fatalf("no command is named: %s", got.stderr)
	}
	if said, err := exec.CommandContext(ctx, "/bin/sh", "-c", command[1]).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command[1], err, said)
	}
}

// TestQEMUUser plugs images of root's into a VM whose QEMU runs as a user of its own.
func TestQEMUUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{User: qemuUser})
	d, err := l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Persistent: true})
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tool := func(args ...string) result { return viaLibvirt(ctx, t, l, d.Name, args...) }
	clean := func(t *testing.T) {
		t.Helper()
		wantSameDomain(ctx, t, d, before)
		if text := metadata(ctx, l, d.Name, "--live"); text != "" {
			t.Errorf("still recorded: %s", text)
		}
		if uuid := virsh(ctx, t, l, "domuuid", d.Name); len(headerFiles(t, uuid)) > 0 {
			t.Errorf("left in memory: %v", headerFiles(t, uuid))
		}
	}

	t.Run("refused, and the command that helps", func(t *testing.T) {
		v := userVolume(ctx, t, peer.DetachedRaw)
		if err := os.Chmod(filepath.Dir(v.Payload), 0o700); err != nil {
			t.Fatal(err)
		}
		args := attachArgs(t, v, v.DiskXML("sda", "scsi"))
		got := tool(args...).want(t, 5)
		wantOneLine(t, got, "sda", v.Payload, "64055", "mode 0600", "pass through the directory")
		// A folder on the way is not given away.
		wantOneLine(t, tool(append(args, "--relabel")...).want(t, 5), "pass through the directory")
		clean(t)
		fix(ctx, t, got)
		wantOwner(t, v.Payload, "64055:0")
		// The header is root's alone, and QEMU gets another one.
		tool(append([]string{"-v"}, args...)...).want(t, 0)
		tool("detach", "sda").want(t, 0)
		wantOwner(t, v.Payload, "64055:0")
		clean(t)
	})
	t.Run("relabel", func(t *testing.T) {
		v := userVolume(ctx, t, peer.DetachedQcow2)
		args := append(attachArgs(t, v, v.DiskXML("sda", "scsi")), "--relabel")
		if refused := tool(args[:len(args)-1]...).want(t, 5); !strings.Contains(refused.stderr, "--relabel") {
			t.Errorf("got %s", refused.stderr)
		}
		tool(args...).want(t, 0)
		wantOwner(t, v.Payload, "64055:0")
		wantOwner(t, v.Header, "0:0")
		if text := metadata(ctx, l, d.Name, "--live"); !strings.Contains(text, `relabel="yes"`) || !strings.Contains(text, "owner>") {
			t.Errorf("the record does not say whose the image was: %s", text)
		}
		tool(args...).want(t, 0) // again
		tool("repair").want(t, 0)
		wantOwner(t, v.Payload, "64055:0")
		tool("detach", "sda").want(t, 0)
		wantOwner(t, v.Payload, "0:0")
		clean(t)
	})
	t.Run("an attach that fails", func(t *testing.T) {
		v := userVolume(ctx, t, peer.EmbeddedLUKS)
		xml := writeFile(t, "disk.xml", v.DiskXML("sda", "scsi"))
		tool("--passphrase-file", writeFile(t, "wrong", "wrong"), "attach", "--relabel", "--unlock", "qemu", xml).want(t, 4)
		wantOwner(t, v.Payload, "0:0")
		clean(t)
	})
	t.Run("one image below two disks", func(t *testing.T) { sharedBase(ctx, t, tool); clean(t) })
	t.Run("killed", func(t *testing.T) { killedRelabel(ctx, t, l, d, tool); clean(t) })
}

// sharedBase plugs two images in that stand on the same one.
func sharedBase(ctx context.Context, t *testing.T, tool func(...string) result) {
	v := userVolume(ctx, t, peer.EmbeddedLUKS)
	dir := filepath.Dir(v.Payload)
	base := filepath.Join(dir, "base.qcow2")
	create := func(args ...string) {
		t.Helper()
		if said, err := exec.CommandContext(ctx, "qemu-img", append([]string{"create", "-q", "-f", "qcow2"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	create(base, "16M")
	for _, target := range []string{"sda", "sdb"} {
		top := filepath.Join(dir, target+".qcow2")
		create("-b", base, "-F", "qcow2", top)
		for _, path := range []string{base, top} {
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// Without <backingStore> QEMU finds the base by itself.
		xml := "<disk type='file'><driver name='qemu' type='qcow2'/><source file='" + top + "'/><target dev='" + target + "' bus='scsi'/></disk>"
		tool("attach", "--relabel", writeFile(t, "disk.xml", xml)).want(t, 0)
	}
	for i, target := range []string{"sda", "sdb"} {
		wantOwner(t, base, "64055:0")
		tool("detach", target).want(t, 0)
		wantOwner(t, filepath.Join(dir, target+".qcow2"), "0:0")
		if i == 1 {
			wantOwner(t, base, "0:0")
		}
	}
}

// killedRelabel kills an attach that has given the image away, while QEMU works at
// its key: repair mends what is left.
func killedRelabel(ctx context.Context, t *testing.T, l *peer.Libvirt, d *peer.Domain, tool func(...string) result) {
	v := userVolume(ctx, t, peer.EmbeddedLUKS, "--type", "luks1", "--pbkdf-force-iterations", "1500000")
	args := append([]string{"--connect", l.URI, "--domain", d.Name}, attachArgs(t, v, v.DiskXML("sda", "scsi"))...)
	cmd := exec.CommandContext(ctx, luksplug, append(args, "--relabel", "--unlock", "qemu")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for ownerOf(t, v.Payload) == "0:0" && ctx.Err() == nil {
		continue // it is written nowhere else
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("it was not killed: %v", err)
	}
	wantOwner(t, v.Payload, "64055:0")
	got := tool("repair").want(t, 0)
	if !strings.Contains(got.stdout, "sda: removed") {
		t.Errorf("repair says %s", got.stdout)
	}
	wantOwner(t, v.Payload, "0:0")
	if again := tool("repair").want(t, 0); !strings.Contains(again.stdout, "nothing was left") {
		t.Errorf("repair says %s", again.stdout)
	}
}

// TestHookQEMUUser starts a domain with images of root's whose QEMU runs as a user of
// its own: one that its group may use, and one that it is given.
func TestHookQEMUUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, qemuUser)
	d, err := h.StartDomain(ctx, peer.DomainOptions{Persistent: true, Off: true, UUID: hookUUID})
	if err != nil {
		t.Fatal(err)
	}
	// In there, where luksplug has its folders in the place that the hook has.
	tool := func(args ...string) result { return viaVirsh(ctx, t, h.Libvirt, d.Name, args...) }
	run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "hook", "enable", d.Name, "--cold-plug", "--yes")).want(t, 0)
	given, groups := userVolume(ctx, t, peer.DetachedRaw), userVolume(ctx, t, peer.EmbeddedLUKS)
	if err := errors.Join(os.Chown(groups.Payload, 0, 64055), os.Chmod(groups.Payload, 0o660)); err != nil {
		t.Fatal(err)
	}
	h.learn(t, given)
	h.learn(t, groups)
	attach := append(attachArgs(t, given, given.DiskXML("vdb", "virtio")), "--persistent")
	tool(append(attachArgs(t, groups, groups.DiskXML("vdc", "virtio")), "--persistent", "--optional")...).want(t, 0)

	// Without being given its image, QEMU is not even started.
	tool(attach...).want(t, 0)
	if err := d.Start(ctx); err == nil || !strings.Contains(err.Error(), "run `chown 64055 "+given.Payload) {
		t.Errorf("got %v", err)
	}
	tool("detach", "--persistent", "vdb").want(t, 0)

	tool(append(attach, "--relabel")...).want(t, 0)
	for range 2 {
		if err := d.Start(ctx); err != nil {
			t.Fatal(err)
		}
		wantOwner(t, given.Payload, "64055:0")
		wantOwner(t, given.Header, "0:0")
		wantOwner(t, groups.Payload, "0:64055")
		var list struct{ Disks []recordedDisk }
		tool("--output", "json", "list").want(t, 0).decode(t, &list)
		if len(list.Disks) != 2 || list.Disks[0].State != "attached" || list.Disks[1].State != "attached" {
			t.Errorf("got %+v", list.Disks)
		}
		virsh(ctx, t, h.Libvirt, "destroy", d.Name)
		wantOwner(t, given.Payload, "0:0")
		h.wantClean(ctx, t)
	}
	owners, err := os.ReadDir(filepath.Join(h.Dir, "luksplug", "var", "lib", "owners"))
	if err != nil || len(owners) > 0 {
		t.Errorf("owners are still noted: %v, %v", owners, err)
	}
}
