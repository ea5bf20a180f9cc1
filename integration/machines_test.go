package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// plainDisk writes the XML of a disk without encryption, and its image.
func plainDisk(t *testing.T, target, bus, more string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), target+".img")
	must.OK(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	return writeFile(t, target+".xml", "<disk type='file'><driver name='qemu' type='raw'/><source file='"+image+"'/><target dev='"+target+"' bus='"+bus+"'/>"+more+"</disk>")
}

// TestMachinesWithoutHotplug: where the machine, or the VM's arguments, leave no bus that takes a hot plug, one line says
// so and what to do, before the VM is touched.
func TestMachinesWithoutHotplug(t *testing.T) {
	t.Parallel()
	const (
		ports  = "no hot-pluggable pcie-root-port is free"
		no     = "has no bus that takes a hot plug"
		fixed  = "Add <acpi/> to <features>"
		noUSB  = "the VM has no USB controller"
		noSlot = "remove the <address>"
	)
	for name, c := range map[string]struct {
		options peer.Options
		says    string
	}{
		"q35 without ports":               {peer.Options{}, ports},
		"q35, port without hot plug":      {peer.Options{Extra: []string{"-device", "pcie-root-port,id=rp,chassis=1,hotplug=off"}}, ports},
		"pc without ACPI":                 {peer.Options{Machine: "pc,acpi=off"}, fixed},
		"pc without hot plug of its root": {peer.Options{Machine: peer.I440FX, Extra: []string{"-global", "PIIX4_PM.acpi-root-pci-hotplug=off"}}, fixed},
		"microvm":                         {peer.Options{Machine: "microvm"}, no},
		"microvm with PCI Express":        {peer.Options{Machine: "microvm,pcie=on"}, ports},
		"isapc":                           {peer.Options{Machine: "isapc", Extra: []string{"-cpu", "486"}}, no},
		"none":                            {peer.Options{Machine: "none"}, no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			c.options.Paused = true
			q := peer.Start(t, c.options)
			before := stateOf(ctx, t, q)
			refused := func(xml, says string) {
				t.Helper()
				wantOneLine(t, tool(ctx, t, q.Socket, "attach", xml).want(t, 5), says)
			}
			refused(plainDisk(t, "vdb", "virtio", ""), c.says)
			refused(plainDisk(t, "sdb", "scsi", ""), c.says)
			refused(plainDisk(t, "sdb", "usb", ""), noUSB)
			refused(plainDisk(t, "vdb", "virtio", "<address type='virtio-mmio'/>"), noSlot)
			if c.says == no || c.says == fixed {
				refused(plainDisk(t, "vdb", "virtio", "<address type='pci' domain='0' bus='0' slot='7' function='0'/>"), c.says)
			}
			wantSame(ctx, t, q, before)
		})
	}
}

// TestBridgesWithoutHotplug: the same for an address behind a bridge of an i440FX.
func TestBridgesWithoutHotplug(t *testing.T) {
	t.Parallel()
	const bridge, fixed = "pci-bridge,id=pci.1,chassis_nr=1", "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"
	for name, c := range map[string]struct {
		options peer.Options
		code    int
	}{
		"by ACPI":      {peer.Options{Machine: peer.I440FX, Extra: []string{"-device", bridge}}, 0},
		"by itself":    {peer.Options{Machine: peer.I440FX, Extra: []string{"-device", bridge + ",shpc=on", "-global", fixed}}, 0},
		"none":         {peer.Options{Machine: peer.I440FX, Extra: []string{"-device", bridge + ",shpc=off", "-global", fixed}}, 5},
		"without ACPI": {peer.Options{Machine: "pc,acpi=off", Extra: []string{"-device", bridge + ",shpc=off"}}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			c.options.Paused = true
			q := peer.Start(t, c.options)
			before := stateOf(ctx, t, q)
			got := tool(ctx, t, q.Socket, "attach", plainDisk(t, "vdb", "virtio", "<address type='pci' domain='0' bus='1' slot='7' function='0'/>")).want(t, c.code)
			if c.code == 0 {
				got.wantStdout(t, "pci.1 0x7")
				return
			}
			wantOneLine(t, got, "the PCI bus pci.1 is in use or takes no hot plug")
			wantSame(ctx, t, q, before)
		})
	}
}

// TestSCSIOfAMicrovm: a controller in a slot of virtio-mmio takes disks, although the machine has no other hot plug.
func TestSCSIOfAMicrovm(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Machine: "microvm", Paused: true, Extra: []string{"-device", "virtio-scsi-device,id=scsi0"}})
	before := stateOf(ctx, t, q)
	for range 2 {
		tool(ctx, t, q.Socket, "attach", plainDisk(t, "sdb", "scsi", "")).want(t, 0).wantStdout(t, "scsi0.0")
		tool(ctx, t, q.Socket, "attach", plainDisk(t, "sdc", "scsi", "")).want(t, 0)
		for _, target := range []string{"sdb", "sdc"} {
			tool(ctx, t, q.Socket, "detach", target).want(t, 0)
		}
		wantSame(ctx, t, q, before)
	}
}

// TestPrettyMonitor: a monitor whose messages are spread over lines serves as any other.
func TestPrettyMonitor(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	socket := filepath.Join(qmptest.SocketDir(t), "pretty.sock")
	q := peer.Start(t, peer.Options{SCSI: true, RootPorts: 1, Paused: true, Extra: []string{"-qmp-pretty", "unix:" + socket + ",server=on,wait=off"}})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	args := attachArgs(t, v, v.DiskXML("sdb", "scsi"))
	tool(ctx, t, socket, args...).want(t, 0).wantStdout(t, "sdb attached")
	tool(ctx, t, socket, args...).want(t, 0).wantStdout(t, "already attached")
	tool(ctx, t, socket, "list").want(t, 0).wantStdout(t, v.Payload)
	tool(ctx, t, socket, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestEmptyDrives: a VM may have drives without a medium, in every form that QEMU has for it. They take no part in what
// luksplug does, and an empty drive of luksplug's comes and goes as another programs' XML writes it.
func TestEmptyDrives(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, RootPorts: 2, Paused: true, Extra: []string{
		"-device", "ide-cd,id=cd0,bus=ide.0",
		"-drive", "if=none,id=old,media=cdrom", "-device", "ide-cd,id=cd1,bus=ide.1,drive=old",
		"-device", "scsi-cd,id=cd2,bus=scsi0.0,lun=1",
		"-blockdev", "driver=null-co,node-name=nothing,read-only=on", "-device", "scsi-cd,id=cd3,bus=scsi0.0,lun=2,drive=nothing",
	}})
	// Its tray is open, and the medium is out.
	must.Get(q.Query(ctx, "blockdev-open-tray", map[string]any{"id": "cd3", "force": true}))(t)
	must.Get(q.Query(ctx, "blockdev-remove-medium", map[string]any{"id": "cd3"}))(t)
	before := stateOf(ctx, t, q)
	tool(ctx, t, q.Socket, "list").want(t, 0).wantStdout(t, "holds no disk")

	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("sdb", "scsi"))...).want(t, 0)
	for name, source := range map[string]string{
		"no source": "", "no path": "<source/>", "an empty path": "<source file='' startupPolicy='optional'><seclabel model='dac' relabel='no' type='none'/></source>",
	} {
		drive := writeFile(t, "drive.xml", "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"+source+"<target dev='sdc' bus='scsi' tray='open'/><readonly/></disk>")
		got := tool(ctx, t, q.Socket, "attach", drive).want(t, 0)
		if !strings.Contains(got.stdout, "scsi-cd") {
			t.Errorf("%s: %s", name, got.stdout)
		}
		tool(ctx, t, q.Socket, "attach", drive).want(t, 0).wantStdout(t, "already attached")
		tool(ctx, t, q.Socket, "list").want(t, 0).wantStdout(t, "sdb", "sdc")
		tool(ctx, t, q.Socket, "detach", "sdc").want(t, 0)
	}
	tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, q, before)
}
