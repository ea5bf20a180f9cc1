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

// unencryptedXML returns a disk of an image without encryption.
func unencryptedXML(format, path, target, bus string) string {
	return "<disk type='file'><driver name='qemu' type='" + format + "'/><source file='" + path + "'/><target dev='" + target + "' bus='" + bus + "'/></disk>"
}

// namingImage makes a file that only root may read, and a qcow2 image that names it as its
// backing file.
func namingImage(ctx context.Context, t *testing.T) (image, named string) {
	t.Helper()
	dir := shortDir(t, "")
	image, named = filepath.Join(dir, "tenant.qcow2"), filepath.Join(dir, "shadow")
	must.OK(t, os.Chmod(dir, 0o755), os.WriteFile(named, make([]byte, peer.MiB), 0o600))
	command(ctx, t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", named, "-F", "raw", image)
	must.OK(t, os.Chmod(image, 0o600))
	return image, named
}

// TestRelabelGivesOnlyNamedFiles: whatever an image names, it is neither given to QEMU's user
// nor named in a command for that, whether or not the image is trusted. Nor is a system file
// that the XML itself names.
func TestRelabelGivesOnlyNamedFiles(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{User: qemuUser})
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Persistent: true}))(t)
	before := stateOf(ctx, t, d)
	tool := func(args ...string) result { return viaLibvirt(ctx, t, l, d.Name, args...) }
	image, named := namingImage(ctx, t)
	disk := writeFile(t, "disk.xml", unencryptedXML("qcow2", image, "sda", "scsi"))
	refused := func(says []string, args ...string) {
		t.Helper()
		got := tool(append([]string{"attach", disk}, args...)...).want(t, 5)
		wantOneLine(t, got, says...)
		if strings.Contains(got.stderr, named+"`") || strings.Contains(got.stderr, "chown 64055 "+named) {
			t.Errorf("a command for what the image names: %s", got.stderr)
		}
		wantOwner(t, named, "0:0")
		wantOwner(t, image, "0:0")
		wantSame(ctx, t, d, before)
	}
	element := "<backingStore type='file'><format type='raw'/><source file='" + named + "'/></backingStore>"
	for _, args := range [][]string{nil, {"--relabel"}} {
		refused([]string{element, "(attach with --trust-image-chain"}, args...)
		refused([]string{named, "what only an image names is given to nobody"}, append(args, "--trust-image-chain")...)
	}

	// QEMU's user may read it: trust is enough, and is recorded.
	must.OK(t, os.Chmod(named, 0o644))
	tool("attach", "--relabel", "--trust-image-chain", disk).want(t, 0)
	wantOwner(t, image, "64055:0")
	wantOwner(t, named, "0:0")
	if text := metadata(ctx, l, d.Name, "--live"); !strings.Contains(text, `trust-image-chain="yes"`) {
		t.Errorf("the record lacks the trust: %s", text)
	}
	tool("detach", "sda").want(t, 0)
	wantOwner(t, image, "0:0")

	// With the element of the message, it is the operator's word.
	must.OK(t, os.Chmod(named, 0o600))
	xml := strings.Replace(unencryptedXML("qcow2", image, "sda", "scsi"), "<target", element+"<target", 1)
	tool("attach", "--relabel", writeFile(t, "named.xml", xml)).want(t, 0)
	wantOwner(t, named, "64055:0")
	tool("detach", "sda").want(t, 0)
	wantOwner(t, named, "0:0")

	system := must.Get(os.CreateTemp("/var/log", "luksplug-test-"))(t)
	t.Cleanup(func() { _ = os.Remove(system.Name()) })
	must.OK(t, system.Truncate(peer.MiB), system.Close())
	for _, args := range [][]string{{"attach"}, {"attach", "--relabel"}} {
		got := tool(append(args, writeFile(t, "system.xml", unencryptedXML("raw", system.Name(), "sda", "scsi")))...).want(t, 5)
		wantOneLine(t, got, system.Name(), "system directory")
		if strings.Contains(got.stderr, "chown") {
			t.Errorf("a command for a system file: %s", got.stderr)
		}
		wantOwner(t, system.Name(), "0:0")
	}
	wantSame(ctx, t, d, before)
}

// TestHookTrustsAsRecorded: a domain starts with images that only the flags of the attach
// allow, and not with others.
func TestHookTrustsAsRecorded(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, Off: true, UUID: hookUUID}))(t)
	tool := func(args ...string) result { return viaVirsh(ctx, t, h.Libvirt, d.Name, args...) }
	run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "hook", "enable", d.Name, "--cold-plug", "--yes")).want(t, 0)
	image, _ := namingImage(ctx, t)
	guests := filepath.Join(filepath.Dir(image), "guest.img")
	must.OK(t, os.WriteFile(guests, append([]byte("LUKS\xba\xbe\x00\x01"), make([]byte, peer.MiB)...), 0o600))
	chain, header := writeFile(t, "chain.xml", unencryptedXML("qcow2", image, "vdb", "virtio")), writeFile(t, "header.xml", unencryptedXML("raw", guests, "vdc", "virtio"))
	v := peer.NewVolume(t, peer.DetachedRaw)
	h.learn(t, v)
	payload := must.Get(os.OpenFile(v.Payload, os.O_WRONLY, 0))(t)
	must.Get(payload.WriteAt([]byte("hsqs"), 0))(t)
	must.Get(payload.WriteAt([]byte{4, 0, 0, 0}, 28))(t) // the version of squashfs
	must.OK(t, payload.Close())
	plain := writeFile(t, "plain.xml", v.DiskXML("vdd", "virtio"))
	for _, c := range []struct{ disk, flag, says string }{
		{plain, "--allow-signature", "squashfs at byte 0"},
		{chain, "--trust-image-chain", "names the backing file"}, {header, "--allow-guest-header", "encrypted with LUKS"},
	} {
		wantOneLine(t, tool("attach", "--persistent", c.disk).want(t, 5), c.says, c.flag)
		tool("attach", "--persistent", c.flag, c.disk).want(t, 0)
	}
	must.OK(t, d.Start(ctx))
	if disks := disksIn[recordedDisk](t, tool("--output", "json", "list")); len(disks) != 3 || disks[0].State != "attached" || disks[1].State != "attached" || disks[2].State != "attached" {
		t.Errorf("got %+v", disks)
	}
}
