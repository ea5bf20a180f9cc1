package integration

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/peer"
)

// hosts are two hosts between which a domain moves. They have the same files, and
// each its own libvirt, keys and folders in memory.
type hosts struct {
	from, to *hookHost
	disks    []plugged
	plain    string // image of a disk that libvirt plugs
	domain   *peer.Domain
	devices  []string // in the guest, of disks and then plain
}

// newHosts starts a domain on the first of two hosts: with a disk that it was
// started with, one that was plugged at its start, one that is plugged in now, and
// one of libvirt's that is not encrypted. The guest writes its log to all of them.
func newHosts(ctx context.Context, t *testing.T, to *hookHost) (*hosts, *guestLog) {
	t.Helper()
	h := &hosts{from: newHookHost(t, ""), to: to, disks: []plugged{
		{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true},
		{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdc"},
		{volume: peer.NewVolume(t, peer.DetachedQcow2), target: "vdd"},
	}}
	h.domain = h.from.define(ctx, t, h.disks[:2]...)
	for _, p := range h.disks {
		h.from.learn(t, p.volume)
		if h.to != nil && h.to.keys != "" {
			h.to.learn(t, p.volume)
		}
	}
	h.from.start(ctx, t, h.domain, h.disks[:2]...)
	h.plug(ctx, t, h.disks[2])
	h.plain = writeFile(t, "plain.img", strings.Repeat("\x00", 8*peer.MiB))
	virsh(ctx, t, h.from.Libvirt, "attach-disk", h.domain.Name, h.plain, "vdx", "--targetbus", "virtio", "--serial", "serial-vdx", "--cache", "none", "--live")
	for _, target := range []string{"vdb", "vdc", "vdd", "vdx"} {
		h.devices = append(h.devices, guestDisk(ctx, t, h.domain, "serial-"+target))
	}
	return h, startLog(ctx, t, h.domain.Guest(), h.devices...)
}

// plug attaches a disk to the running domain.
func (h *hosts) plug(ctx context.Context, t *testing.T, p plugged) {
	t.Helper()
	xml := serialXML(t, p.volume.DiskXML(p.target, "virtio"), "serial-"+p.target)
	h.from.tool(ctx, t, h.domain, "attach", writeFile(t, "disk.xml", xml)).want(t, 0)
}

// tool runs the program on a host, about a domain.
func (h *hookHost) tool(ctx context.Context, t *testing.T, d *peer.Domain, args ...string) result {
	t.Helper()
	return run(ctx, t, h.Inside(ctx, luksplug, append([]string{"--connect", h.URI, "--domain", d.Name}, args...)...))
}

// migrate moves the domain.
func (h *hosts) migrate(ctx context.Context, t *testing.T, flags ...string) error {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "migration")
	_, err := h.from.Virsh(ctx, append([]string{"migrate", "--live", "--unsafe", "--migrateuri", "unix://" + socket, h.domain.Name, h.to.URI}, flags...)...)
	return err
}

// moved makes the destination the domain's host.
func (h *hosts) moved(ctx context.Context, t *testing.T) {
	t.Helper()
	d, err := h.to.Receive(h.domain)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Reconnect(ctx); err != nil {
		t.Fatal(err)
	}
	h.domain, h.from, h.to = d, h.to, h.from
}

// end stops the log, turns the domain off and checks every line on the host.
func (h *hosts) end(ctx context.Context, t *testing.T, log *guestLog) {
	t.Helper()
	lines := log.stop(ctx, t, h.domain.Guest())
	t.Logf("the guest has written %d lines to each disk", lines)
	virsh(ctx, t, h.from.Libvirt, "destroy", h.domain.Name)
	h.from.wantClean(ctx, t)
	for i, p := range h.disks {
		checkVolumeLog(ctx, t, p.volume, h.devices[i], lines)
	}
	checkFileLog(t, h.plain, h.devices[len(h.disks)], lines)
}

// TestMigrate moves a domain to another host and back, by the client and by the
// source itself, while its guest writes.
func TestMigrate(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h, log := newHosts(ctx, t, newHookHost(t, ""))
	for _, flags := range [][]string{{"--persistent", "--undefinesource"}, {"--persistent", "--undefinesource", "--p2p"}} {
		if _, err := h.to.Receive(h.domain); err != nil {
			t.Fatal(err)
		}
		if err := h.migrate(ctx, t, flags...); err != nil {
			t.Fatal(err)
		}
		h.from.wantClean(ctx, t)
		h.moved(ctx, t)
		log.wantMore(ctx, t, h.domain.Guest())
		if list := h.from.tool(ctx, t, h.domain, "list").want(t, 0); strings.Count(list.stdout, "attached") != 3 || strings.Contains(list.stdout, "metadata") {
			t.Errorf("list shows %s", list.stdout)
		}
		if repaired := h.from.tool(ctx, t, h.domain, "repair").want(t, 0); !strings.Contains(repaired.stdout, "luksplug-vdc-secret0") {
			t.Errorf("repair says %s", repaired.stdout)
		}
		wantNoObjects(ctx, t, h.domain)
	}
	h.end(ctx, t, log)
}
