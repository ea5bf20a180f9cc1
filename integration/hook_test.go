package integration

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/dir"
)

// hookHost is a host whose libvirt calls luksplug.
type hookHost struct {
	*peer.Libvirt
	keys string // directory of the passphrases
}

// newHookHost starts a libvirtd that runs QEMUs as user and has another hook, and installs luksplug's in
// addition.
func newHookHost(t *testing.T, user string) *hookHost {
	t.Helper()
	return newHookHostWith(t, peer.LibvirtOptions{User: user, Hook: "#!/bin/sh\nexit 0\n"})
}

// newHookHostWith is newHookHost with these settings, and a configuration.
func newHookHostWith(t *testing.T, o peer.LibvirtOptions) *hookHost {
	t.Helper()
	keys := t.TempDir()
	o.Configuration = "keystores: ['dir:" + keys + "']\n"
	l := peer.LibvirtdWith(t, o)
	h := &hookHost{l, keys}
	ctx := bounded(t)
	run(ctx, t, h.Inside(ctx, luksplug, "hook", "install")).want(t, 0)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the hook's log: %s", h.logged(t))
		}
	})
	return h
}

// logged returns the hook's log.
func (h *hookHost) logged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.Dir, "luksplug", "var", "log", "hook.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// onHost returns the files in luksplug's directory in memory.
func (h *hookHost) onHost(ctx context.Context, t *testing.T) []string {
	t.Helper()
	got := run(ctx, t, h.Inside(ctx, "find", "/run/luksplug", "-not", "-type", "d")).want(t, 0)
	return strings.Fields(got.stdout)
}

// wantClean ends the test unless nothing of any domain is on the host.
func (h *hookHost) wantClean(ctx context.Context, t *testing.T) {
	t.Helper()
	got := run(ctx, t, h.Inside(ctx, "find", "/run/luksplug", "-mindepth", "2")).want(t, 0)
	if got.stdout != "" {
		t.Errorf("left on the host: %s", got.stdout)
	}
}

// learn adds the passphrase of a volume to the key store.
func (h *hookHost) learn(t *testing.T, v *peer.Volume) {
	t.Helper()
	must.OK(t, os.WriteFile(h.keyFile(t, v), v.Passphrase, 0o600))
}

func (h *hookHost) keyFile(t *testing.T, v *peer.Volume) string {
	t.Helper()
	disk := must.Get(diskxml.ParseDisk([]byte(v.DiskXML("vdb", "virtio"))))(t)
	return filepath.Join(h.keys, dir.FileName(disk.Secrets()[0]))
}

const hookUUID = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"

// plugged is a disk of a domain.
type plugged struct {
	volume   *peer.Volume
	target   string
	cold     bool // among QEMU's arguments
	optional bool
	attach   string // attributes of its record: how it is attached
}

// define defines a domain with a guest, and with a monitor, ports and disks of luksplug's.
func (h *hookHost) define(ctx context.Context, t *testing.T, disks ...plugged) *peer.Domain {
	t.Helper()
	return h.defineWith(ctx, t, peer.DomainOptions{Guest: true, Movable: true}, disks...)
}

// defineWith is define with other options.
func (h *hookHost) defineWith(ctx context.Context, t *testing.T, o peer.DomainOptions, disks ...plugged) *peer.Domain {
	t.Helper()
	arguments := hook.Arguments(hookUUID, max(2, len(disks)))
	user := "+0:+0"
	if label := regexp.MustCompile(`<label>(.*)</label>`).FindStringSubmatch(o.Label); label != nil {
		user = label[1]
	}
	metadata := fmt.Sprintf(`<luksplug:disks xmlns:luksplug="%s" user=%q>`, libvirtvm.Namespace, user)
	starting := coldstart.New(hookUUID, coldstart.Options{RunDir: "/run/luksplug/vm"})
	for i, p := range disks {
		h.learn(t, p.volume)
		xml := serialXML(t, p.volume.DiskXML(p.target, "virtio"), "serial-"+p.target)
		disk := must.Get(diskxml.ParseDisk([]byte(xml)))(t)
		graph := must.Get(blockgraph.Build(disk, blockgraph.Machine{Type: "q35", Ports: []blockgraph.Port{{Bus: blockgraph.ReservedPort(i)}}}, blockgraph.Unlock{}))(t)
		device, way, optional := graph.Device().Options, coldstart.Method(disk, blockgraph.MethodEphemeralHeader), ""
		if p.optional {
			optional = ` optional="yes"`
		}
		optional += p.attach
		metadata += fmt.Sprintf(`<luksplug:disk target=%q start=%q%s>%s<luksplug:device>%s</luksplug:device></luksplug:disk>`,
			p.target, way, optional, xml, html.EscapeString(device.String()))
		if p.cold {
			ours := must.Get(starting.Arguments(ctx, coldstart.Disk{Disk: disk, Method: way, Spec: hotplug.Spec{Devices: []blockgraph.Object{device}}}))(t)
			arguments = append(arguments, ours.Arguments...)
		}
	}
	o.Persistent, o.Off, o.UUID, o.Extra = true, true, hookUUID, arguments
	o.Other = "<metadata>" + metadata + "</luksplug:disks></metadata>"
	d := must.Get(h.StartDomain(ctx, o))(t)
	if len(disks) > 0 {
		h.adopt(ctx, t, d)
	}
	return d
}

// adopt signs the records of a domain that the test has written.
func (h *hookHost) adopt(ctx context.Context, t *testing.T, d *peer.Domain) {
	t.Helper()
	h.tool(ctx, t, d, "repair", "--adopt", "--yes").want(t, 0)
}

// keyOfRecords returns the path of the host's key for records.
func (h *hookHost) keyOfRecords() string {
	return filepath.Join(h.Dir, "luksplug", "etc", "record.key")
}

// shareKey gives another host the same key, so that domains can move there.
func (h *hookHost) shareKey(t *testing.T, to *hookHost) {
	t.Helper()
	must.OK(t, os.WriteFile(to.keyOfRecords(), must.Get(os.ReadFile(h.keyOfRecords()))(t), 0o600))
}

// start starts the domain and waits until the guest has the disks.
func (h *hookHost) start(ctx context.Context, t *testing.T, d *peer.Domain, disks ...plugged) {
	t.Helper()
	must.OK(t, d.Start(ctx))
	for _, p := range disks {
		guestDisk(ctx, t, d, "serial-"+p.target)
	}
}

// TestHookColdStart: a domain starts with its disks, among QEMU's arguments or attached afterwards, and no key
// is left.
func TestHookColdStart(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	disks := []plugged{
		{volume: peer.NewVolume(t, peer.DetachedQcow2), target: "vdb", cold: true},
		{volume: peer.NewVolume(t, peer.EmbeddedLUKS), target: "vdc"},
	}
	d := h.define(ctx, t, disks...)
	for range 2 {
		h.start(ctx, t, d, disks...)
		wantNoObjects(ctx, t, d)
		for _, path := range h.onHost(ctx, t) {
			if !strings.HasSuffix(path, ".json") && !strings.HasSuffix(path, "/qmp") {
				t.Errorf("left after the start: %s", path)
			}
		}
		list := run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "--domain", d.Name, "list")).want(t, 0)
		for _, p := range disks {
			list.wantStdout(t, p.target)
		}
		virsh(ctx, t, h.Libvirt, "destroy", d.Name)
		h.wantClean(ctx, t)
	}
}

// TestHookSaveAndRestore: a saved domain is restored with its disks and the guest's memory, from a managed
// save and a file.
func TestHookSaveAndRestore(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	disks := []plugged{
		{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true},
		{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdc"},
	}
	d := h.define(ctx, t, disks...)
	h.start(ctx, t, d, disks...)
	device := guestDisk(ctx, t, d, "serial-vdb")
	must.Get(d.Guest().Run(ctx, "echo in memory > /tmp/kept"))(t)
	file := filepath.Join(t.TempDir(), "saved")
	for i, way := range [][2][]string{
		{{"managedsave", d.Name, "--paused"}, {"start", d.Name}},
		{{"save", "--paused", d.Name, file}, {"restore", file}},
	} {
		pattern := []byte(fmt.Sprintf("before save %d", i))
		must.OK(t, d.Guest().WritePattern(ctx, device, 0, 1, pattern))
		virsh(ctx, t, h.Libvirt, way[0]...)
		h.wantClean(ctx, t)
		virsh(ctx, t, h.Libvirt, way[1]...)
		must.OK(t, d.Reconnect(ctx))
		virsh(ctx, t, h.Libvirt, "resume", d.Name)
		// QEMU opens a qcow2 image again when the guest continues, and needs its secret until then.
		run(ctx, t, h.Inside(ctx, luksplug, "--connect", h.URI, "--domain", d.Name, "repair")).want(t, 0).wantStdout(t, "luksplug-vdc-secret0")
		wantNoObjects(ctx, t, d)
		if out, err := d.Guest().Run(ctx, "cat /tmp/kept"); err != nil || !strings.Contains(out, "in memory") {
			t.Fatalf("the guest has been restarted: %q %v", out, err)
		}
		wantHash(ctx, t, d, device, 0, pattern)
	}
}

// wantNoObjects checks that QEMU has no object of luksplug's.
func wantNoObjects(ctx context.Context, t *testing.T, d *peer.Domain) {
	t.Helper()
	state := stateOf(ctx, t, d)
	for _, id := range state.Objects {
		if strings.HasPrefix(id, "luksplug-") {
			t.Errorf("QEMU still has the object %s", id)
		}
	}
}
