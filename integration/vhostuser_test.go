package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// vhostUserServer has a qemu-storage-daemon serve an image by vhost-user, and returns the socket. It ends with
// the test.
func vhostUserServer(ctx context.Context, t *testing.T, dir, image string) string {
	t.Helper()
	socket := filepath.Join(dir, filepath.Base(image)+".sock")
	startCommand(t, exec.CommandContext(ctx, "qemu-storage-daemon", "--blockdev", "driver=file,node-name=disk,filename="+image,
		"--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path="+socket))
	eventually(ctx, t, "the vhost-user server listens", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	return socket
}

func vhostUserXML(t *testing.T, socket string) string {
	t.Helper()
	return writeFile(t, "disk.xml", `<disk type='vhostuser' device='disk'><driver type='raw'/>
  <source type='unix' path='`+socket+`'><reconnect enabled='yes' timeout='2'/></source><target dev='vdb' bus='virtio'/></disk>`)
}

// TestVHostUser attaches a disk of a vhost-user server, and has the guest write to it.
func TestVHostUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2,
		Extra: []string{"-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram"}})
	before := stateOf(ctx, t, q)
	image := sized(t, "disk.img", 16*peer.MiB)
	socket := vhostUserServer(ctx, t, q.Dir, image)
	xml := vhostUserXML(t, socket)

	proxy := peer.NewProxy(t, q.Socket, peer.FailCommand("device_add"))
	tool(ctx, t, proxy.Address, "attach", xml).want(t, 6)
	wantSame(ctx, t, q, before)

	tool(ctx, t, q.Socket, "attach", xml).want(t, 0)
	tool(ctx, t, q.Socket, "attach", xml).want(t, 0).wantStdout(t, "already attached")
	tool(ctx, t, q.Socket, "attach", vhostUserXML(t, socket+"2")).want(t, 5).wantStderr(t, "another disk is attached as vdb")
	const serial = "vhost_user_blk" // the server's own
	dev := guestDisk(ctx, t, q, serial)
	pattern := []byte("written without a block node. ")
	must.OK(t, q.Guest().WritePattern(ctx, dev, 3, 1, pattern))
	tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
	wantSame(ctx, t, q, before)
	content := must.Get(os.ReadFile(image))(t)
	if !bytes.HasPrefix(content[3*peer.MiB:], pattern) {
		t.Errorf("the image has %q", content[3*peer.MiB:][:len(pattern)])
	}

	missing := filepath.Join(q.Dir, "missing.sock")
	tool(ctx, t, q.Socket, "attach", vhostUserXML(t, missing)).want(t, 5).wantStderr(t, missing)
	wantSame(ctx, t, q, before)
}

// TestVHostUserNeedsSharedMemory: without shared memory the server could not read the guest's requests.
func TestVHostUserNeedsSharedMemory(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 2, Paused: true})
	socket := vhostUserServer(ctx, t, q.Dir, sized(t, "disk.img", 16*peer.MiB))
	before := stateOf(ctx, t, q)
	tool(ctx, t, q.Socket, "attach", vhostUserXML(t, socket)).want(t, 5).wantStderr(t, "shared memory")
	wantSame(ctx, t, q, before)
}

// TestNoSuchDevice: a missing device of the host is reported before the first change. A disk on a bus without
// hot plug is possible only among a VM's arguments.
func TestNoSuchDevice(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 2, Paused: true})
	before := stateOf(ctx, t, q)
	for _, c := range []struct {
		name, xml, says string
		code            int
		arguments       bool
	}{
		// Debian builds QEMU without the driver.
		{"vdpa", `<disk type='vhostvdpa'><driver type='raw' cache='none'/><source dev='/dev/vhost-vdpa-4711'/><target dev='vdb'/></disk>`, "libblkio", 3, true},
		{"nvme", `<disk type='nvme'><driver type='raw'/><source type='pci' managed='yes' namespace='1'><address domain='0xffff' bus='0xff' slot='0x1f' function='7'/></source><target dev='vdb'/></disk>`,
			"no PCI device ffff:ff:1f.7", 5, true},
		{"ide", `<disk type='file'><driver type='raw'/><source file='/a'/><target dev='hda' bus='ide'/></disk>`, "'ide' cannot be hotplugged", 3, true},
		{"sata", `<disk type='file'><driver type='raw'/><source file='/a'/><target dev='sda' bus='sata'/></disk>`, "'sata' cannot be hotplugged", 3, true},
		{"floppy", `<disk type='file' device='floppy'><driver type='raw'/><source file='/a'/><target dev='fda' bus='fdc'/></disk>`, "'fdc' cannot be hotplugged", 3, true},
		{"sd", `<disk type='file'><driver type='raw'/><source file='/a'/><target dev='sda' bus='sd'/></disk>`, "SD card", 3, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			xml := writeFile(t, "disk.xml", c.xml)
			tool(ctx, t, q.Socket, "attach", xml).want(t, c.code).wantStderr(t, c.says)
			wantSame(ctx, t, q, before)
			code := 3
			if c.arguments {
				code = 0
			}
			run(ctx, t, exec.CommandContext(ctx, luksplug, "cmdline", xml)).want(t, code)
		})
	}
}
