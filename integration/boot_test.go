package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// bootDomain defines, as a user does, a domain that boots from an encrypted disk with a detached header, and
// has a second one.
func (h *hookHost) bootDomain(ctx context.Context, t *testing.T) (d *peer.Domain, root, data *peer.Volume) {
	t.Helper()
	d = must.Get(h.StartDomain(ctx, peer.DomainOptions{Guest: true, FromDisk: true, Movable: true, Persistent: true, Off: true}))(t)
	root, data = peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedQcow2)
	must.OK(t, root.WriteOnHost(ctx, "write -s "+peer.BootImage(ctx, t)+" 0 64M"))
	run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "hook", "enable", d.Name, "--cold-plug", "--ports", "2", "--yes")).want(t, 0)
	for target, v := range map[string]*peer.Volume{"vda": root, "vdb": data} {
		h.learn(t, v)
		xml := serialXML(t, v.DiskXML(target, "virtio"), "serial-"+target)
		if v == root {
			xml = edited(t, xml, "</disk>", "<boot order='1'/></disk>")
		}
		h.tool(ctx, t, d, "attach", "--persistent", writeFile(t, "disk.xml", xml)).want(t, 0)
	}
	return d, root, data
}

// wantDisks checks that the guest runs from its disk, has all of these, and that list shows no difference.
func (h *hookHost) wantDisks(ctx context.Context, t *testing.T, d *peer.Domain, targets ...string) {
	t.Helper()
	if line, err := d.Guest().Run(ctx, "cat /proc/cmdline"); err != nil || !strings.Contains(line, peer.BootMark) {
		t.Fatalf("the guest has not booted from its disk: %q %v", line, err)
	}
	for _, target := range targets {
		guestDisk(ctx, t, d, "serial-"+target)
	}
	for _, disk := range listOf(ctx, t, h.Libvirt, d.Name) {
		if disk.State != "attached" || disk.Difference != "" {
			t.Errorf("list shows %+v", disk)
		}
	}
	wantNoObjects(ctx, t, d)
}

// TestBootFromDetachedHeader boots a guest from a disk with a detached header, next to disks of libvirt's. The
// guest also reboots, is saved and restored, and libvirtd restarts.
func TestBootFromDetachedHeader(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	d, _, _ := h.bootDomain(ctx, t)
	must.OK(t, d.Start(ctx))
	h.wantDisks(ctx, t, d, "vda", "vdb")
	plain := func(target string) {
		virsh(ctx, t, h.Libvirt, "attach-disk", d.Name, writeFile(t, target, strings.Repeat("\x00", peer.MiB)), target, "--targetbus", "virtio", "--serial", "serial-"+target, "--live")
	}
	plain("vdx")
	h.plugIn(ctx, t, d, "vdc")
	plain("vdy")
	must.OK(t, h.Crash(ctx))
	h.wantDisks(ctx, t, d, "vda", "vdb", "vdc", "vdx", "vdy")
	plain("vdz")
	h.wantDisks(ctx, t, d, "vdz")
	h.tool(ctx, t, d, "detach", "vdc").want(t, 0)

	if _, err := d.Guest().Run(ctx, "reboot -f"); err == nil || !strings.Contains(err.Error(), "restarted") {
		t.Fatalf("the guest has not restarted itself: %v", err)
	}
	h.wantDisks(ctx, t, d, "vda", "vdb")
	virsh(ctx, t, h.Libvirt, "managedsave", d.Name, "--paused")
	h.wantClean(ctx, t)
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	must.OK(t, d.Reconnect(ctx))
	virsh(ctx, t, h.Libvirt, "resume", d.Name)
	h.wantDisks(ctx, t, d, "vda", "vdb")
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantClean(ctx, t)
	run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "hook", "disable", d.Name, "--yes")).want(t, 5) // it has disks
	for _, target := range []string{"vda", "vdb"} {
		h.tool(ctx, t, d, "detach", "--persistent", target).want(t, 0)
	}
	run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "hook", "disable", d.Name, "--yes")).want(t, 0)
	if xml := virsh(ctx, t, h.Libvirt, "dumpxml", "--inactive", d.Name); strings.Contains(xml, "luksplug-v") || strings.Contains(xml, "luksplug-monitor") {
		t.Errorf("left in the definition: %s", xml)
	}
}

// plugIn attaches a new volume to the running domain.
func (h *hookHost) plugIn(ctx context.Context, t *testing.T, d *peer.Domain, target string) {
	t.Helper()
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.learn(t, v)
	h.tool(ctx, t, d, "attach", writeFile(t, "disk.xml", serialXML(t, v.DiskXML(target, "virtio"), "serial-"+target))).want(t, 0)
}

// byRPC runs a program on the host without luksplug's own monitors and virsh, so that it uses libvirt's RPC.
func (h *hookHost) byRPC(ctx context.Context, name string, args ...string) *exec.Cmd {
	line := "mkdir -p " + hook.MonitorDir + " && mount -t tmpfs nothing " + hook.MonitorDir + ` && exec env PATH= "$@"`
	return h.Inside(ctx, "unshare", append([]string{"--mount", "sh", "-c", line, "sh", name}, args...)...)
}

// TestLibvirtdRestartsDuringAttach kills libvirtd while an attach waits for its passphrase. The disk is
// attached completely or not at all, and another attach works.
func TestLibvirtdRestartsDuringAttach(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	d := h.define(ctx, t)
	h.start(ctx, t, d)
	must.OK(t, d.Guest().WaitBoot(ctx))
	v := peer.NewVolume(t, peer.DetachedRaw)
	xml := writeFile(t, "disk.xml", serialXML(t, v.DiskXML("vdb", "virtio"), "serial-vdb"))
	for name, command := range map[string]func(context.Context, string, ...string) *exec.Cmd{"own monitor": h.Inside, "RPC": h.byRPC} {
		t.Run(name, func(t *testing.T) {
			passphrase := filepath.Join(t.TempDir(), "passphrase")
			must.OK(t, unix.Mkfifo(passphrase, 0o600))
			cmd := command(ctx, luksplug, "--connect", h.URI, "--domain", d.Name, "--passphrase-file", passphrase, "attach", xml)
			done := make(chan result, 1)
			go func() { done <- run(ctx, t, cmd) }()
			pipe := make(chan *os.File, 1)
			go func() {
				f, err := os.OpenFile(passphrase, os.O_WRONLY, 0) // returns when the attach reads it
				if err != nil {
					t.Error(err)
				}
				pipe <- f
			}()
			select {
			case f := <-pipe:
				must.OK(t, h.Crash(ctx))
				must.Get(f.Write(v.Passphrase))(t)
				must.OK(t, f.Close())
			case got := <-done:
				t.Fatalf("the attach has not read its passphrase: %+v", got)
			}
			got := <-done
			t.Logf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
			tool := func(args ...string) result {
				args = append([]string{"--connect", h.URI, "--domain", d.Name, "--keystore", "dir:" + h.keys}, args...)
				return run(ctx, t, command(ctx, luksplug, args...))
			}
			disks := listOf(ctx, t, h.Libvirt, d.Name)
			if attached := len(disks) == 1 && disks[0].State == "attached" && disks[0].Difference == ""; attached != (got.code == 0) || !attached && len(disks) > 0 {
				t.Errorf("list shows %+v", disks)
			}
			h.learn(t, v)
			tool("attach", xml).want(t, 0)
			guestDisk(ctx, t, d, "serial-vdb")
			tool("detach", "vdb").want(t, 0)
		})
	}
}

// TestLibvirtdRestartsAtAnyTime kills libvirtd at many moments of attaches and detaches: repair and a second
// try succeed.
func TestLibvirtdRestartsAtAnyTime(t *testing.T) {
	peer.Long(t, "libvirtd is killed twenty times")
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	h := newHookHost(t, "")
	d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Guest: true}))(t)
	must.OK(t, d.Guest().WaitBoot(ctx))
	v := peer.NewVolume(t, peer.DetachedRaw)
	h.learn(t, v)
	xml := writeFile(t, "disk.xml", serialXML(t, v.DiskXML("vdb", "virtio"), "serial-vdb"))
	tool := func(args ...string) *exec.Cmd {
		return h.byRPC(ctx, luksplug, append([]string{"--connect", h.URI, "--domain", d.Name, "--keystore", "dir:" + h.keys}, args...)...)
	}
	for i := range 20 {
		wait := time.Duration(i) * 20 * time.Millisecond
		for _, command := range [][]string{{"attach", xml}, {"detach", "--ignore-missing", "vdb"}} {
			done := make(chan result, 1)
			go func() { done <- run(ctx, t, tool(command...)) }()
			time.Sleep(wait) // varies the moment
			must.OK(t, h.Crash(ctx))
			got := <-done
			t.Logf("%s, libvirtd killed after %s: exit code %d %s", command[0], wait, got.code, got.stderr)
			run(ctx, t, tool("repair")).want(t, 0)
			run(ctx, t, tool(command...)).want(t, 0)
			disks := listOf(ctx, t, h.Libvirt, d.Name)
			if want := map[string]int{"attach": 1, "detach": 0}[command[0]]; len(disks) != want || want > 0 && (disks[0].State != "attached" || disks[0].Difference != "") {
				t.Fatalf("list shows %+v", disks)
			}
		}
	}
}
