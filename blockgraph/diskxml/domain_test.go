package diskxml_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

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
		{"running q35", blocktest.LiveQ35, blockgraph.Machine{
			Name: "vm1",
			Type: "pc-q35-10.0",
			Ports: []blockgraph.Port{{Bus: "pci.1", Taken: true}, {Bus: "pci.2", Taken: true}, {Bus: "pci.3", Taken: true},
				{Bus: "pci.4", Taken: true}, {Bus: "pci.5"}},
			RootSlots: []uint{2, 0x1f},
			PCIUsed:   []blockgraph.PCIAddress{{Bus: 2}, {Slot: 0x1f, Function: 2}, {Bus: 3}, {Slot: 2}, {Slot: 2, Function: 1}, {Bus: 1}},
			SCSI: []blockgraph.SCSIController{
				{ID: "scsi0", Model: "virtio-scsi", Units: []blockgraph.SCSIUnit{{Target: 0, LUN: 63}}},
				{ID: "scsi1", Model: "lsilogic"},
				{ID: "scsi2", Model: "virtio-non-transitional", Units: []blockgraph.SCSIUnit{{Target: 1, LUN: 7}}}},
			USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true, PCI: true,
			Bridges: []blockgraph.Bridge{{Bus: "pci.6"}},
			Drives:  []blockgraph.UsedDrive{{Bus: blockgraph.BusSATA, Address: blockgraph.DriveAddress{Unit: 1}}},
			Disks:   []blockgraph.OtherDisk{{Target: "vda"}, {Target: "sda"}, {Target: "sdb"}},
		}},
		{"running i440fx", domain("pc-i440fx-10.0", pciAt("2")+pciAt("0x1f")+"<controller type='usb' index='0' model='piix3-uhci'><address type='pci' domain='0' bus='0' slot='1' function='2'/></controller>"),
			blockgraph.Machine{Type: "pc-i440fx-10.0", RootSlots: []uint{0, 1, 2, 0x1f}, PCIUsed: []blockgraph.PCIAddress{{Slot: 2}, {Slot: 0x1f}, {Slot: 1, Function: 2}, {}, {Slot: 1}}, USB: true, USBHubs: []blockgraph.USBHub{{Ports: 2}}, Domain: true}},
		{"i440fx that was never started", domain("pc", ""), blockgraph.Machine{Type: "pc", RootSlots: []uint{0, 1}, PCIUsed: []blockgraph.PCIAddress{{}, {Slot: 1}}, USB: true, USBHubs: []blockgraph.USBHub{{Ports: 2}}, Domain: true}},
		{"no devices", "<domain><os><type machine='q35'>hvm</type></os></domain>", blockgraph.Machine{Type: "q35", USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true}},
		{"USB turned off", domain("q35", "<controller type='usb' model='none'/>"), blockgraph.Machine{Type: "q35", Domain: true}},
		{"controller without an index", domain("q35", "<controller type='scsi' model='virtio-scsi'/>"),
			blockgraph.Machine{Type: "q35", SCSI: []blockgraph.SCSIController{{ID: "scsi0", Model: "virtio-scsi"}}, USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true}},
		{"controllers without indexes", domain("q35", "<controller type='scsi' index='1' model='virtio-scsi'/><controller type='scsi'/><controller type='scsi' model='auto'/>"),
			blockgraph.Machine{Type: "q35", SCSI: []blockgraph.SCSIController{{ID: "scsi1", Model: "virtio-scsi"}, {ID: "scsi0", Model: "lsilogic"}, {ID: "scsi2", Model: "lsilogic"}}, USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true}},
		{"I/O threads", "<domain><iothreads>3</iothreads><iothreadids><iothread id='2'/></iothreadids><os><type machine='q35'>hvm</type></os></domain>",
			blockgraph.Machine{Type: "q35", USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true, IOThreads: []uint{2, 1, 3}}},
		{"throttle groups", "<domain><throttlegroups><throttlegroup><group_name>a</group_name><read_iops_sec>7</read_iops_sec></throttlegroup></throttlegroups><os><type machine='q35'>hvm</type></os></domain>",
			blockgraph.Machine{Type: "q35", USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true, ThrottleGroups: []blockgraph.ThrottleGroup{{
				Limits: blockgraph.IOTune{Group: "a", Requests: blockgraph.Limits{Read: blockgraph.Limit{PerSecond: 7}}}}}}},
		{"what must not be twice", domain("pc", "<disk type='file'><target dev='hdb' bus='ide'/><serial>S</serial><wwn>5000c50015ea71ad</wwn><iotune><size_iops_sec>4</size_iops_sec></iotune></disk>"),
			blockgraph.Machine{Type: "pc", RootSlots: []uint{0, 1}, PCIUsed: []blockgraph.PCIAddress{{}, {Slot: 1}}, USB: true, USBHubs: []blockgraph.USBHub{{Ports: 2}}, Domain: true,
				Drives: []blockgraph.UsedDrive{{Bus: blockgraph.BusIDE, Address: blockgraph.DriveAddress{Unit: 1}}},
				Disks:  []blockgraph.OtherDisk{{Target: "hdb", Serial: "S", WWN: 0x5000c50015ea71ad, Tune: &blockgraph.IOTune{RequestSize: 4}}}}},
		{"mainframe", domain("s390-ccw-virtio", "<disk type='file'><target dev='vda' bus='virtio'/><address type='ccw' cssid='0xfe' ssid='0x0' devno='0x0003'/></disk>"),
			blockgraph.Machine{Type: "s390-ccw-virtio", USB: true, USBHubs: []blockgraph.USBHub{{Ports: 4}}, Domain: true, CCW: []blockgraph.CCWAddress{{CSSID: 0xfe, DevNo: 3}}, Disks: []blockgraph.OtherDisk{{Target: "vda"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := diskxml.ParseDomain([]byte(c.doc))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestParseDomainRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, doc, element, reason string }{
		{"empty", "", "domain", "EOF"},
		{"not XML", "<domain", "domain", "EOF"},
		{"a disk", "<disk/>", "domain", "expected element"},
		{"no machine", "<domain/>", "domain/os/type@machine", "missing"},
		{"odd limit", "<domain><throttlegroups><throttlegroup><group_name>a</group_name><read_iops_sec>x</read_iops_sec></throttlegroup></throttlegroups><os><type machine='q35'/></os></domain>", "domain", "invalid syntax"},
		{"total and read", "<domain><throttlegroups><throttlegroup><group_name>a</group_name><read_iops_sec>1</read_iops_sec><total_iops_sec>1</total_iops_sec></throttlegroup></throttlegroups><os><type machine='q35'/></os></domain>", "domain/throttlegroups/throttlegroup", "at the same time"},
		{"group without a name", "<domain><throttlegroups><throttlegroup/></throttlegroups><os><type machine='q35'/></os></domain>", "domain/throttlegroups/throttlegroup", "group_name"},
		{"huge", strings.Repeat(" ", 17<<20), "domain", "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, err := diskxml.ParseDomain([]byte(c.doc))
			var invalid *diskxml.XMLError
			if !errors.As(err, &invalid) || invalid.Element != c.element || !strings.Contains(invalid.Reason, c.reason) {
				t.Errorf("got %+v %v, want an error about %s that says %q", m, err, c.element, c.reason)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "domain XML") {
				t.Errorf("got %q", err)
			}
		})
	}
}
