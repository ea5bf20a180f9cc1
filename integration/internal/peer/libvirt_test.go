package peer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

func TestPrivateLibvirtd(t *testing.T) {
	Long(t, "starts the libvirtd that other tests work with in every run")
	t.Parallel()
	ctx := testContext(t)
	l := Libvirtd(t)
	d, err := l.StartDomain(ctx, DomainOptions{Guest: true, SCSI: true})
	must.OK(t, err)
	must.OK(t, d.Guest().WaitBoot(ctx))
	before, err := d.State(ctx)
	must.OK(t, err)
	image := filepath.Join(t.TempDir(), "disk.img")
	must.OK(t, sparse(image, 8*MiB))
	disk := filepath.Join(t.TempDir(), "disk.xml")
	xml := `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + image +
		`'/><target dev='vdb' bus='virtio'/><serial>by-libvirt</serial></disk>`
	must.OK(t, os.WriteFile(disk, []byte(xml), 0o600))
	_, err = l.Virsh(ctx, "attach-device", d.Name, disk)
	must.OK(t, err)
	dev, err := d.Guest().WaitDisk(ctx, "by-libvirt")
	must.OK(t, err)
	_, err = l.Virsh(ctx, "detach-device", d.Name, disk)
	must.OK(t, err)
	must.OK(t, d.Guest().WaitGone(ctx, dev))
	m, err := d.Monitor(ctx)
	must.OK(t, err)
	_, err = m.WaitEvent(ctx, func(e Event) bool { return e.Name == "DEVICE_DELETED" && strings.Contains(string(e.Data), `"device"`) })
	must.OK(t, err)
	if _, err := l.Virsh(ctx, "dumpxml", d.Name); err != nil { // libvirt removes the nodes before it answers
		t.Error(err)
	}
	after, err := d.State(ctx)
	if err != nil || len(before.Diff(after)) != 0 {
		t.Errorf("after the unplug QEMU differs: %v, error %v", before.Diff(after), err)
	}
}

// TestTwoPrivateLibvirtds: they are independent of each other, and a domain ends with its libvirtd.
func TestTwoPrivateLibvirtds(t *testing.T) {
	Long(t, "starts the libvirtds that TestMigrate works with in every run")
	t.Parallel()
	ctx := testContext(t)
	one, two := Libvirtd(t), Libvirtd(t)
	d, err := one.StartDomain(ctx, DomainOptions{Machine: I440FX})
	must.OK(t, err)
	if out, err := two.Virsh(ctx, "list", "--all", "--name"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("the other libvirtd lists %q, error %v", out, err)
	}
	running := func() bool {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		return slices.ContainsFunc(files, func(file string) bool {
			line, _ := os.ReadFile(file) // the process may have ended
			return strings.Contains(string(line), d.Control)
		})
	}
	if !running() {
		t.Error("the domain has no QEMU")
	}
	one.Close()
	if running() {
		t.Error("the domain outlives its libvirtd")
	}
}
