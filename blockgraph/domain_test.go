package blockgraph_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
)

// liveQ35 has what the XML of a running q35 domain has: every address.
const liveQ35 = `<domain type='kvm' id='4'>
  <name>vm1</name>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/images/root.qcow2' index='1'/>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/images/data.img'/>
      <target dev='sda' bus='scsi'/>
      <address type='drive' controller='0' bus='0' target='0' unit='63'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdb' bus='sata'/>
      <address type='drive' controller='0' bus='0' target='0' unit='1'/>
    </disk>
    <controller type='sata' index='0'><address type='pci' domain='0' bus='0' slot='0x1f' function='0x2'/></controller>
    <controller type='usb' index='0' model='qemu-xhci'><address type='pci' domain='0' bus='3' slot='0' function='0'/></controller>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'><target chassis='1' port='0x10'/><address type='pci' domain='0' bus='0' slot='2' function='0' multifunction='on'/></controller>
    <controller type='pci' index='2' model='pcie-root-port'><target chassis='2' port='0x11'/><address type='pci' domain='0' bus='0' slot='2' function='1'/></controller>
    <controller type='pci' index='3' model='pcie-root-port'/>
    <controller type='pci' index='4' model='pcie-root-port'><target chassis='4' port='0x13' hotplug='off'/></controller>
    <controller type='pci' index='5' model='pcie-switch-downstream-port'/>
    <controller type='pci' index='6' model='pcie-to-pci-bridge'/>
    <controller type='scsi' index='0' model='virtio-scsi'><address type='pci' domain='0' bus='1' slot='0' function='0'/></controller>
    <controller type='scsi' index='1' model='lsilogic'/>
    <controller type='scsi' index='2' model='virtio-non-transitional'/>
    <hostdev mode='subsystem' type='scsi'>
      <source><adapter name='scsi_host0'/><address bus='0' target='0' unit='9'/></source>
      <address type='drive' controller='2' bus='0' target='1' unit='7'/>
    </hostdev>
    <hostdev mode='subsystem' type='pci'>
      <source><address type='pci' domain='0' bus='5' slot='0' function='0'/></source>
    </hostdev>
  </devices>
</domain>`

func TestParseDomain(t *testing.T) {
	t.Parallel()
	domain := func(machine, devices string) string {
		return "<domain><os><type machine='" + machine + "'>hvm</type></os><devices>" + devices + "</devices></domain>"
	}
	pciAt := func(slot string) string {
		return "<video><address type='pci' domain='0' bus='0' slot='" + slot + "' function='0'/></video>"
	}
	for _, c := range []struct {
		name, doc string
		want      blockgraph.Machine
	}{
		{"running q35", liveQ35, blockgraph.Machine{
			Type: "pc-q35-10.0",
			Ports: []blockgraph.Port{{Bus: "pci.1", Taken: true}, {Bus: "pci.2", Taken: true}, {Bus: "pci.3", Taken: true},
				{Bus: "pci.4", Taken: true}, {Bus: "pci.5"}},
			RootSlots: []uint{2, 0x1f},
			SCSI: []blockgraph.SCSIController{
				{ID: "scsi0", Units: []blockgraph.SCSIUnit{{Target: 0, LUN: 63}}},
				{ID: "scsi2", Units: []blockgraph.SCSIUnit{{Target: 1, LUN: 7}}}},
			USB: true,
		}},
		{"running i440fx", domain("pc-i440fx-10.0", pciAt("2")+pciAt("0x1f")+"<controller type='usb' index='0' model='piix3-uhci'><address type='pci' domain='0' bus='0' slot='1' function='2'/></controller>"),
			blockgraph.Machine{Type: "pc-i440fx-10.0", RootSlots: []uint{0, 1, 2, 0x1f}, USB: true}},
		{"i440fx that was never started", domain("pc", ""), blockgraph.Machine{Type: "pc", RootSlots: []uint{0, 1}, USB: true}},
		{"no devices", "<domain><os><type machine='q35'>hvm</type></os></domain>", blockgraph.Machine{Type: "q35", USB: true}},
		{"USB turned off", domain("q35", "<controller type='usb' model='none'/>"), blockgraph.Machine{Type: "q35"}},
		{"controller without an index", domain("q35", "<controller type='scsi' model='virtio-scsi'/>"),
			blockgraph.Machine{Type: "q35", SCSI: []blockgraph.SCSIController{{ID: "scsi0"}}, USB: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := blockgraph.ParseDomain([]byte(c.doc))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestParseDomainPlacesDisk(t *testing.T) {
	t.Parallel()
	m, err := blockgraph.ParseDomain([]byte(liveQ35))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"dev='vdb'": "pci.5 0x0", "dev='sdb'": "scsi0.0 0 0 62"} {
		got, err := places(t, diskAt(target, ""), m)
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q %v, want %q", target, got, err, want)
		}
	}
}

func TestParseDomainRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, doc, element, reason string }{
		{"empty", "", "domain", "EOF"},
		{"not XML", "<domain", "domain", "EOF"},
		{"a disk", "<disk/>", "domain", "expected element"},
		{"no machine", "<domain/>", "domain/os/type@machine", "missing"},
		{"huge", strings.Repeat(" ", 17<<20), "domain", "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, err := blockgraph.ParseDomain([]byte(c.doc))
			var invalid *blockgraph.XMLError
			if !errors.As(err, &invalid) || invalid.Element != c.element || !strings.Contains(invalid.Reason, c.reason) {
				t.Errorf("got %+v %v, want an error about %s that says %q", m, err, c.element, c.reason)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "domain XML") {
				t.Errorf("got %q", err)
			}
		})
	}
}
