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
	"github.com/luksplug/luksplug/internal/must"
)

// qemuUser is the user that runs QEMU under Debian's libvirt.
const qemuUser = "libvirt-qemu"

// userVolume makes a volume of root's in a directory that every user may search.
func userVolume(ctx context.Context, t *testing.T, kind peer.VolumeKind, format ...string) *peer.Volume {
	t.Helper()
	dir := shortDir(t, "")
	must.OK(t, os.Chmod(dir, 0o755))
	v := must.Get(peer.CreateVolume(ctx, dir, kind, format...))(t)
	must.OK(t, os.Chmod(v.Payload, 0o600))
	if v.Header != "" {
		must.OK(t, os.Chmod(v.Header, 0o600))
	}
	return v
}

// ownerOf returns user and group of a file.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	st := must.Get(os.Stat(path))(t).Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func wantOwner(t *testing.T, path, want string) {
	t.Helper()
	if got := ownerOf(t, path); got != want {
		t.Errorf("%s belongs to %s, want %s", path, got, want)
	}
}

// fix runs the command that a refusal suggests.
func fix(ctx context.Context, t *testing.T, got result) {
	t.Helper()
	named := regexp.MustCompile("run `([^`]*)`").FindStringSubmatch(got.stderr)
	if named == nil {
		t.Fatalf("no command is named: %s", got.stderr)
	}
	command(ctx, t, "/bin/sh", "-c", named[1])
}

// TestQEMUUser attaches images of root's to a VM whose QEMU runs as another user.
func TestQEMUUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{User: qemuUser})
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Persistent: true}))(t)
	before := stateOf(ctx, t, d)
	tool := func(args ...string) result { return viaLibvirt(ctx, t, l, d.Name, args...) }
	clean := func(t *testing.T) {
		t.Helper()
		wantSame(ctx, t, d, before)
		wantNoRecord(ctx, t, l, d, "--live")
		if uuid := virsh(ctx, t, l, "domuuid", d.Name); len(headerFiles(t, uuid)) > 0 {
			t.Errorf("left in memory: %v", headerFiles(t, uuid))
		}
	}

	t.Run("refused, and the command that helps", func(t *testing.T) {
		v := userVolume(ctx, t, peer.DetachedRaw)
		must.OK(t, os.Chmod(filepath.Dir(v.Payload), 0o700))
		args := attachArgs(t, v, v.DiskXML("sda", "scsi"))
		got := tool(args...).want(t, 5)
		wantOneLine(t, got, "sda", v.Payload, "64055", "mode 0600", "pass through the directory")
		// The owner of a parent directory is not changed.
		wantOneLine(t, tool(append(args, "--relabel")...).want(t, 5), "pass through the directory")
		clean(t)
		fix(ctx, t, got)
		wantOwner(t, v.Payload, "64055:0")
		// Only root can read the header, and QEMU gets an ephemeral one.
		tool(append([]string{"-v"}, args...)...).want(t, 0)
		tool("detach", "sda").want(t, 0)
		wantOwner(t, v.Payload, "64055:0")
		clean(t)
	})
	t.Run("relabel", func(t *testing.T) {
		v := userVolume(ctx, t, peer.DetachedQcow2)
		args := append(attachArgs(t, v, v.DiskXML("sda", "scsi")), "--relabel")
		tool(args[:len(args)-1]...).want(t, 5).wantStderr(t, "--relabel")
		tool(args...).want(t, 0)
		wantOwner(t, v.Payload, "64055:0")
		wantOwner(t, v.Header, "0:0")
		if text := metadata(ctx, l, d.Name, "--live"); !strings.Contains(text, `relabel="yes"`) || strings.Contains(text, "owner") {
			t.Errorf("the record lacks relabel, or has the image's owner: %s", text)
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

// sharedBase attaches two images that have the same backing image.
func sharedBase(ctx context.Context, t *testing.T, tool func(...string) result) {
	v := userVolume(ctx, t, peer.EmbeddedLUKS)
	dir := filepath.Dir(v.Payload)
	base := filepath.Join(dir, "base.qcow2")
	create := func(args ...string) {
		t.Helper()
		command(ctx, t, "qemu-img", append([]string{"create", "-q", "-f", "qcow2"}, args...)...)
	}
	create(base, "16M")
	for _, target := range []string{"sda", "sdb"} {
		top := filepath.Join(dir, target+".qcow2")
		create("-b", base, "-F", "qcow2", top)
		must.OK(t, errors.Join(os.Chmod(base, 0o600), os.Chmod(top, 0o600)))
		xml := "<disk type='file'><driver name='qemu' type='qcow2'/><source file='" + top + "'/><backingStore type='file'><format type='qcow2'/><source file='" + base +
			"'/></backingStore><target dev='" + target + "' bus='scsi'/></disk>"
		tool("attach", "--relabel", writeFile(t, "disk.xml", xml)).want(t, 0)
	}
	for _, target := range []string{"sda", "sdb"} {
		wantOwner(t, base, "64055:0")
		tool("detach", target).want(t, 0)
		wantOwner(t, filepath.Join(dir, target+".qcow2"), "0:0")
	}
	wantOwner(t, base, "0:0")
}

// killedRelabel kills an attach that has changed the image's owner, while QEMU derives the key: repair
// restores the owner.
func killedRelabel(ctx context.Context, t *testing.T, l *peer.Libvirt, d *peer.Domain, tool func(...string) result) {
	v := userVolume(ctx, t, peer.EmbeddedLUKS, "--type", "luks1", "--pbkdf-force-iterations", "1500000")
	args := append([]string{"--connect", l.URI, "--domain", d.Name}, attachArgs(t, v, v.DiskXML("sda", "scsi"))...)
	b := startCommand(t, exec.CommandContext(ctx, luksplug, append(args, "--relabel", "--unlock", "qemu")...))
	for ownerOf(t, v.Payload) == "0:0" && ctx.Err() == nil {
		continue // nothing else shows it
	}
	must.OK(t, b.cmd.Process.Kill())
	b.wantKilled(t)
	wantOwner(t, v.Payload, "64055:0")
	tool("repair").want(t, 0).wantStdout(t, "sda: removed")
	wantOwner(t, v.Payload, "0:0")
	tool("repair").want(t, 0).wantStdout(t, "nothing was left")
}

// TestHookQEMUUser starts a domain whose QEMU runs as another user, with images of root's: one to which its
// group has access, and one whose owner is changed.
func TestHookQEMUUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, qemuUser)
	d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, Off: true, UUID: hookUUID}))(t)
	// Inside, where luksplug has the same directories as the hook.
	tool := func(args ...string) result { return viaVirsh(ctx, t, h.Libvirt, d.Name, args...) }
	run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "hook", "enable", d.Name, "--cold-plug", "--yes")).want(t, 0)
	given, groups := userVolume(ctx, t, peer.DetachedRaw), userVolume(ctx, t, peer.EmbeddedLUKS)
	must.OK(t, errors.Join(os.Chown(groups.Payload, 0, 64055), os.Chmod(groups.Payload, 0o660)))
	h.learn(t, given)
	h.learn(t, groups)
	attach := append(attachArgs(t, given, given.DiskXML("vdb", "virtio")), "--persistent")
	tool(append(attachArgs(t, groups, groups.DiskXML("vdc", "virtio")), "--persistent", "--optional")...).want(t, 0)

	// Unless the image's owner is changed, the domain would not start.
	wantOneLine(t, tool(attach...).want(t, 5), "run `chown 64055 "+given.Payload, "--relabel")

	tool(append(attach, "--relabel")...).want(t, 0)
	for range 2 {
		must.OK(t, d.Start(ctx))
		wantOwner(t, given.Payload, "64055:0")
		wantOwner(t, given.Header, "0:0")
		wantOwner(t, groups.Payload, "0:64055")
		if disks := disksIn[recordedDisk](t, tool("--output", "json", "list")); len(disks) != 2 || disks[0].State != "attached" || disks[1].State != "attached" {
			t.Errorf("got %+v", disks)
		}
		virsh(ctx, t, h.Libvirt, "destroy", d.Name)
		wantOwner(t, given.Payload, "0:0")
		h.wantClean(ctx, t)
	}
	owners, err := os.ReadDir(filepath.Join(h.Dir, "luksplug", "var", "lib", "owners"))
	if err != nil || len(owners) > 0 {
		t.Errorf("owners are still recorded: %v, %v", owners, err)
	}
}
