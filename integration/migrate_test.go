package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// hosts are two hosts between which a domain moves, with the same files, and each its own libvirt, keys and
// directories in memory.
type hosts struct {
	from, to *hookHost
	disks    []plugged
	plain    string // image of a disk that libvirt attaches, "" for none
	domain   *peer.Domain
	devices  []string // in the guest, of disks and then plain
}

// newHosts starts a domain on the first of two hosts, with a disk among QEMU's arguments, one attached at
// the start, one attached now, and a plain one of libvirt's. The guest writes its log to all of them.
func newHosts(ctx context.Context, t *testing.T, to *hookHost) (*hosts, *guestLog) {
	t.Helper()
	h := &hosts{from: newHookHost(t, ""), to: to, disks: []plugged{
		{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true},
		{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdc"},
		{volume: peer.NewVolume(t, peer.DetachedQcow2), target: "vdd"},
	}}
	h.from.shareKey(t, h.to)
	h.domain = h.from.define(ctx, t, h.disks[:2]...)
	for _, p := range h.disks {
		h.from.learn(t, p.volume)
		h.to.learn(t, p.volume)
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

// plugAll starts a domain on the source and attaches the hosts' disks. The guest writes its log to them.
func (h *hosts) plugAll(ctx context.Context, t *testing.T) *guestLog {
	t.Helper()
	h.domain = must.Get(h.from.StartDomain(ctx, peer.DomainOptions{Guest: true, Movable: true}))(t)
	for _, p := range h.disks {
		h.from.learn(t, p.volume)
		h.plug(ctx, t, p)
		h.devices = append(h.devices, guestDisk(ctx, t, h.domain, "serial-"+p.target))
	}
	return startLog(ctx, t, h.domain.Guest(), h.devices...)
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

// moved makes the destination the domain's host after a migration.
func (h *hosts) moved(ctx context.Context, t *testing.T) {
	t.Helper()
	d := must.Get(h.to.Receive(h.domain))(t)
	must.OK(t, d.Reconnect(ctx))
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
	if h.plain != "" {
		checkLog(t, must.Get(os.ReadFile(h.plain))(t), h.devices[len(h.disks)], lines)
	}
}

// check runs migrate-check, outside of the namespaces of both hosts.
func (h *hosts) check(ctx context.Context, t *testing.T, code int, args ...string) string {
	t.Helper()
	config := writeFile(t, "config.yaml", "record-key: "+h.from.keyOfRecords()+"\n")
	args = append([]string{"--config", config, "--connect", h.from.URI, "--keystore", "dir:" + h.from.keys, "migrate-check", h.domain.Name, h.to.URI}, args...)
	return run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, code).stdout
}

// shell returns a command that runs its arguments on the destination.
func (h *hosts) shell(ctx context.Context) []string {
	cmd := h.to.Inside(ctx, "env", "PATH="+filepath.Dir(luksplug)+":/usr/bin:/bin")
	return []string{"--shell", strings.Join(cmd.Args, " ")}
}

// wantRefused checks that migrate-check reports why, that the migration then fails, and that the guest
// continues.
func (h *hosts) wantRefused(ctx context.Context, t *testing.T, log *guestLog, why string) {
	t.Helper()
	if report := h.check(ctx, t, 5, h.shell(ctx)...); !strings.Contains(report, "BAD destination: disk vdb") || !strings.Contains(report, why) {
		t.Errorf("migrate-check says %s", report)
	}
	err := h.migrate(ctx, t)
	if err == nil || !strings.Contains(err.Error(), why) || strings.Count(err.Error(), "\n") > 2 {
		t.Fatalf("got %v", err)
	}
	if state := virsh(ctx, t, h.from.Libvirt, "domstate", h.domain.Name); state != "running" {
		t.Fatalf("the source is %s", state)
	}
	log.wantMore(ctx, t, h.domain.Guest())
	h.to.wantClean(ctx, t)
}

// TestMigrate moves a domain to another host and back, by the client and by the source itself, while its
// guest writes. At first the destination lacks keys and then images, and the domain stays on the source.
func TestMigrate(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h, log := newHosts(ctx, t, newHookHost(t, ""))
	must.Get(h.to.Receive(h.domain))(t)
	first := h.disks[0].volume
	key := h.to.keyFile(t, first)
	must.OK(t, os.Remove(key))
	h.wantRefused(ctx, t, log, "secret")
	h.to.learn(t, first)
	dir := filepath.Dir(first.Header)
	run(ctx, t, h.to.Inside(ctx, "mount", "-t", "tmpfs", "nothing", dir)).want(t, 0)
	h.wantRefused(ctx, t, log, first.Payload)
	run(ctx, t, h.to.Inside(ctx, "umount", dir)).want(t, 0)

	report := h.check(ctx, t, 5, h.shell(ctx)...)
	if strings.Count(report, "BAD") != 1 || !strings.Contains(report, "disk vdc: if the migration fails late") {
		t.Errorf("migrate-check says %s", report)
	}
	report = h.check(ctx, t, 0, append(h.shell(ctx), "--prepare")...)
	for _, want := range []string{"disk vdb is recorded", "the machine pc-q35", "destination: disk vdd: its files", "the destination has the same key for records", "destination: records are signed with /etc/luksplug/record.key", "given luksplug-vdc-secret0", "destination: /etc/libvirt/hooks/qemu.d/50-luksplug is installed"} {
		if !strings.Contains(report, want) {
			t.Errorf("migrate-check does not report %q: %s", want, report)
		}
	}
	for _, flags := range [][]string{{"--persistent", "--undefinesource"}, {"--persistent", "--undefinesource", "--p2p"}} {
		must.OK(t, h.migrate(ctx, t, flags...))
		h.from.wantClean(ctx, t)
		h.moved(ctx, t)
		log.wantMore(ctx, t, h.domain.Guest())
		if list := h.from.tool(ctx, t, h.domain, "list").want(t, 0); strings.Count(list.stdout, "attached") != 3 || strings.Contains(list.stdout, "metadata") {
			t.Errorf("list shows %s", list.stdout)
		}
		h.from.tool(ctx, t, h.domain, "repair").want(t, 0).wantStdout(t, "luksplug-vdc-secret0")
		wantNoObjects(ctx, t, h.domain)
	}
	if report := h.check(ctx, t, 5, "--shell", "false"); !strings.Contains(report, "BAD luksplug cannot be run") {
		t.Errorf("migrate-check says %s", report)
	}
	h.to = h.from
	if report := h.check(ctx, t, 5); !strings.Contains(report, "is the host that the domain runs on") {
		t.Errorf("migrate-check says %s", report)
	}
	h.end(ctx, t, log)
}

// TestMigrateToNoLuksplug: without luksplug, the destination's QEMU detects a missing disk only in the stream.
// By then the source has closed its images, and must open them again.
func TestMigrateToNoLuksplug(t *testing.T) {
	peer.Long(t, "two libvirtds and a guest; TestMigrate moves a domain in every run")
	t.Parallel()
	ctx := bounded(t)
	h := &hosts{from: newHookHost(t, ""), to: &hookHost{peer.Libvirtd(t), ""}, disks: []plugged{
		{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdb"},
		{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdc"},
	}}
	log := h.plugAll(ctx, t)
	must.Get(h.to.Receive(h.domain))(t)
	report := h.check(ctx, t, 0, "--prepare")
	if !strings.Contains(report, "?   luksplug, its hook and the keys") || !strings.Contains(report, "?   disk vdc: no pool of the destination has") || !strings.Contains(report, "given luksplug-vdb-secret0") {
		t.Errorf("migrate-check says %s", report)
	}
	if report := h.check(ctx, t, 0); !strings.Contains(report, "QEMU has the secret that it needs again") {
		t.Errorf("migrate-check says %s", report)
	}
	h.failLate(ctx, t)
	log.wantMore(ctx, t, h.domain.Guest())
	h.from.tool(ctx, t, h.domain, "repair").want(t, 0)
	wantNoObjects(ctx, t, h.domain)
	lines := log.stop(ctx, t, h.domain.Guest())

	// Without the secret QEMU cannot reopen the image, and ends at the latest when the guest writes: --prepare
	// prevents that.
	h.failLate(ctx, t)
	if err := h.domain.Guest().WritePattern(ctx, h.devices[0], 8, 1, []byte("lost")); err == nil {
		t.Error("QEMU has reopened an encrypted qcow2 image without its secret: --prepare is not needed")
	}
	_, _ = h.from.Virsh(ctx, "destroy", h.domain.Name) // it may have ended
	h.from.wantClean(ctx, t)
	for i, p := range h.disks {
		checkVolumeLog(ctx, t, p.volume, h.devices[i], lines)
	}
}

// failLate migrates to a destination that cannot load the stream.
func (h *hosts) failLate(ctx context.Context, t *testing.T) {
	t.Helper()
	err := h.migrate(ctx, t)
	if err == nil || !strings.Contains(err.Error(), "load of migration failed") {
		t.Fatalf("got %v", err)
	}
}

// TestMigrateTakenBack: the destination fails to open its images after the source has sent the whole stream.
// The source, which was prepared, opens them again; a second migration works.
func TestMigrateTakenBack(t *testing.T) {
	peer.Long(t, "two hosts and a guest for one rare failure")
	t.Parallel()
	ctx := bounded(t)
	h := &hosts{from: newHookHost(t, ""), to: newHookHost(t, ""), disks: []plugged{
		{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdb"},
		{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdc"},
	}}
	for _, p := range h.disks {
		h.to.learn(t, p.volume)
	}
	h.from.shareKey(t, h.to)
	log := h.plugAll(ctx, t)
	d := must.Get(h.to.Receive(h.domain))(t)
	h.check(ctx, t, 0, append(h.shell(ctx), "--prepare")...)
	migrated := make(chan error, 1)
	go func() { migrated <- h.migrate(ctx, t, "--bandwidth", "5") }()
	// Its QEMU runs for seconds, and needs the secret at the end.
	for deleted := false; !deleted; {
		select {
		case err := <-migrated:
			t.Fatalf("the migration has ended too early: %v", err)
		default:
		}
		m, err := peer.DialMonitor(ctx, d.Control)
		if err != nil {
			continue
		}
		_, err = m.Execute(ctx, "object-del", map[string]string{"id": "luksplug-vdb-secret0"})
		deleted = err == nil
		_ = m.Close() // no more queries
	}
	if err := <-migrated; err == nil || !strings.Contains(err.Error(), "secret") {
		t.Fatalf("the migration ends with %v", err)
	}
	log.wantMore(ctx, t, h.domain.Guest())
	h.to.wantClean(ctx, t)
	must.OK(t, h.migrate(ctx, t))
	h.moved(ctx, t)
	h.from.tool(ctx, t, h.domain, "repair").want(t, 0)
	h.end(ctx, t, log)
}
