package blockgraph_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
)

// diskAt is a plain disk with this target and, if any, address.
func diskAt(target, address string) string {
	return "<disk><source file='/a'/><target " + target + "/>" + address + "</disk>"
}

// places builds the disk and returns where its devices go, such as
// "pci.10 0x0"; the disk's own device last.
func places(t *testing.T, doc string, m blockgraph.Machine) ([]string, error) {
	t.Helper()
	g, err := blockgraph.Build(mustParse(t, doc), m, blockgraph.Unlock{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range g.Devices {
		var words []string
		for _, name := range []string{"bus", "addr", "channel", "scsi-id", "lun", "unit", "port"} {
			if v := d.Options.Get(name); v != nil {
				words = append(words, fmt.Sprint(v))
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return out, nil
}

func ports(names ...string) []blockgraph.Port {
	var out []blockgraph.Port
	for _, n := range names {
		bus, taken := strings.CutSuffix(n, " taken")
		out = append(out, blockgraph.Port{Bus: bus, Taken: taken})
	}
	return out
}

func TestPlacement(t *testing.T) {
	t.Parallel()
	q35 := func(names ...string) blockgraph.Machine {
		return blockgraph.Machine{Type: "pc-q35-9.2", Ports: ports(names...)}
	}
	pc := func(slots ...uint) blockgraph.Machine {
		return blockgraph.Machine{Type: "pc-i440fx-9.2", RootSlots: slots}
	}
	var all []uint
	for slot := range uint(0x20) {
		all = append(all, slot)
	}
	scsi := func(units ...blockgraph.SCSIUnit) blockgraph.Machine {
		m := q35("pci.1")
		m.SCSI = []blockgraph.SCSIController{{ID: "scsi0", Units: units}}
		return m
	}
	var full []blockgraph.SCSIUnit
	for lun := range uint(64) {
		full = append(full, blockgraph.SCSIUnit{LUN: lun})
	}
	twoControllers := scsi(full...)
	twoControllers.SCSI = append(twoControllers.SCSI, blockgraph.SCSIController{ID: "myscsi"})
	usb := q35()
	usb.USB = true

	vdb, sdb, usbDisk := "dev='vdb'", "dev='sdb'", "dev='sdb' bus='usb'"
	pci := func(bus, slot, function string) string {
		return fmt.Sprintf("<address type='pci' domain='0' bus='%s' slot='%s' function='%s'/>", bus, slot, function)
	}
	drive := func(controller, target, unit string) string {
		return fmt.Sprintf("<address type='drive' controller='%s' bus='0' target='%s' unit='%s'/>", controller, target, unit)
	}
	for _, c := range []struct {
		name, doc string
		machine   blockgraph.Machine
		want      []string
		failure   string // part of the PlacementError
	}{
		{"unknown machine: left to QEMU", diskAt(vdb, ""), blockgraph.Machine{}, []string{""}, ""},
		{"the highest number, not the last name", diskAt(vdb, ""), q35("pci.9", "pci.10", "pci.2"), []string{"pci.10 0x0"}, ""},
		{"taken ports are skipped", diskAt(vdb, ""), q35("pci.9", "pci.10 taken", "pci.2"), []string{"pci.9 0x0"}, ""},
		{"names without numbers come last", diskAt(vdb, ""), q35("spare", "pci.2"), []string{"pci.2 0x0"}, ""},
		{"ports with any name", diskAt(vdb, ""), q35("hot a"), []string{"hot a 0x0"}, ""},
		{"no free port", diskAt(vdb, ""), q35("pci.1 taken", "pci.2 taken"), nil, "the VM has 2): add ports while the VM is off, in libvirt <controller type='pci' model='pcie-root-port'/>, for QEMU -device pcie-root-port"},
		{"no port", diskAt(vdb, ""), q35(), nil, "no hot-pluggable pcie-root-port is free for the virtio disk"},
		{"address, free", diskAt(vdb, pci("2", "0", "0")), q35("pci.1", "pci.2"), []string{"pci.2 0x0"}, ""},
		{"address, taken", diskAt(vdb, pci("2", "0", "0")), q35("pci.1", "pci.2 taken"), nil, "pci.2 is in use or takes no hot plug"},
		{"address, missing", diskAt(vdb, pci("7", "0", "0")), q35("pci.1", "pci.10", "pci.2"), nil, "no PCI bus pci.7 (it has: pci.10, pci.2, pci.1)"},
		{"address, unknown machine", diskAt(vdb, pci("7", "0", "0")), blockgraph.Machine{}, []string{"pci.7 0x0"}, ""},
		{"address on the root bus, for a cold plug", diskAt(vdb, pci("0", "5", "1")), q35(), []string{"pcie.0 0x5.0x1"}, ""},

		{"i440fx: from the top", diskAt(vdb, ""), pc(0, 1), []string{"pci.0 0x1f"}, ""},
		{"i440fx: slots in use are skipped", diskAt(vdb, ""), pc(0, 1, 0x1f, 0x1d, 0x1e), []string{"pci.0 0x1c"}, ""},
		{"i440fx: ports do not matter", diskAt(vdb, ""), blockgraph.Machine{Type: "pc"}, []string{"pci.0 0x1f"}, ""},
		{"i440fx: slot 0 is the host bridge's", diskAt(vdb, ""), pc(all[1:]...), nil, "no slot is free on pci.0"},
		{"i440fx: full", diskAt(vdb, ""), pc(all...), nil, "no slot is free on pci.0 for the virtio disk: unplug a device"},
		{"i440fx: address, free", diskAt(vdb, pci("0", "9", "0")), pc(0, 1), []string{"pci.0 0x9"}, ""},
		{"i440fx: address, taken", diskAt(vdb, pci("0", "9", "0")), pc(0, 1, 9), nil, "slot 0x9 of pci.0 is in use"},
		{"i440fx: address behind a bridge", diskAt(vdb, pci("1", "4", "0")), pc(0, 1), []string{"pci.1 0x4"}, ""},

		{"scsi: from 63 down", diskAt(sdb, ""), scsi(), []string{"scsi0.0 0 0 63"}, ""},
		{"scsi: units in use are skipped", diskAt(sdb, ""), scsi(blockgraph.SCSIUnit{LUN: 63}, blockgraph.SCSIUnit{LUN: 62}), []string{"scsi0.0 0 0 61"}, ""},
		{"scsi: other targets do not matter", diskAt(sdb, ""), scsi(blockgraph.SCSIUnit{Target: 1, LUN: 63}), []string{"scsi0.0 0 0 63"}, ""},
		{"scsi: the last unit", diskAt(sdb, ""), scsi(full[1:]...), []string{"scsi0.0 0 0 0"}, ""},
		{"scsi: the next controller", diskAt(sdb, ""), twoControllers, []string{"myscsi.0 0 0 63"}, ""},
		{"scsi: full, so one more", diskAt(sdb, ""), scsi(full...), []string{"pci.1 0x0", "luksplug-sdb-scsi.0 0 0 63"}, ""},
		{"scsi: none, so one", diskAt(sdb, ""), pc(0, 1), []string{"pci.0 0x1f", "luksplug-sdb-scsi.0 0 0 63"}, ""},
		{"scsi: none, unknown machine", diskAt(sdb, ""), blockgraph.Machine{}, []string{"", "luksplug-sdb-scsi.0 0 0 63"}, ""},
		{"scsi: none, and no port for one", diskAt(sdb, ""), q35(), nil, "is free for the SCSI controller that the disk needs"},
		{"scsi: address, free", diskAt(sdb, drive("0", "3", "200")), scsi(), []string{"scsi0.0 0 3 200"}, ""},
		{"scsi: address, taken", diskAt(sdb, drive("0", "3", "2")), scsi(blockgraph.SCSIUnit{Target: 3, LUN: 2}), nil, "target 3 unit 2 of the SCSI controller scsi0 is in use"},
		{"scsi: address, missing", diskAt(sdb, drive("1", "0", "0")), scsi(), nil, "no virtio-scsi controller scsi1 (it has: scsi0)"},
		{"scsi: address, none at all", diskAt(sdb, drive("0", "0", "0")), q35(), nil, "no virtio-scsi controller scsi0 (it has: none)"},
		{"scsi: address, unknown machine", diskAt(sdb, drive("2", "0", "1")), blockgraph.Machine{}, []string{"scsi2.0 0 0 1"}, ""},

		{"usb: left to QEMU", diskAt(usbDisk, ""), usb, []string{""}, ""},
		{"usb: unknown machine", diskAt(usbDisk, ""), blockgraph.Machine{}, []string{""}, ""},
		{"usb: no controller", diskAt(usbDisk, ""), q35(), nil, "no USB controller: add one while it is off"},
		{"usb: address", diskAt(usbDisk, "<address type='usb' bus='0' port='2.1'/>"), usb, []string{"usb.0 2.1"}, ""},
		{"usb: address on another controller", diskAt(usbDisk, "<address type='usb' bus='1' port='4'/>"), usb, []string{"usb1.0 4"}, ""},
		{"usb: address without a port", diskAt(usbDisk, "<address type='usb' bus='1'/>"), usb, []string{"usb1.0"}, ""},

		{"ide: by name", diskAt("dev='hdd'", ""), pc(), []string{"ide.1 1"}, ""},
		{"ide: address", diskAt("dev='hda'", drive("0", "0", "1")), pc(), []string{"ide.0 1"}, ""},
		{"sata: by name, built in", diskAt("dev='sdc' bus='sata'", ""), q35(), []string{"ide.2"}, ""},
		{"sata: by name, second controller", diskAt("dev='sdh' bus='sata'", ""), q35(), []string{"sata1.1"}, ""},
		{"sata: unknown machine", diskAt("dev='sdc' bus='sata'", ""), blockgraph.Machine{}, []string{"ide.2"}, ""},
		{"sata: added controller", diskAt("dev='sdc' bus='sata'", ""), pc(), []string{"sata0.2"}, ""},
		{"sata: address", diskAt("dev='sdc' bus='sata'", drive("0", "0", "5")), q35(), []string{"ide.5"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(c.machine.Ports)
			got, err := places(t, c.doc, c.machine)
			if !slices.Equal(before, c.machine.Ports) {
				t.Error("Build changed the machine")
			}
			if c.failure != "" {
				var full *blockgraph.PlacementError
				if !errors.As(err, &full) || !strings.Contains(full.Reason, c.failure) {
					t.Errorf("got %q %v, want an error that says %q", got, err, c.failure)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestIDENeedsI440FX(t *testing.T) {
	t.Parallel()
	_, err := places(t, diskAt("dev='hda'", ""), blockgraph.Machine{Type: "q35"})
	var unsupported *blockgraph.UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(unsupported.Reason, "IDE controllers are unsupported") {
		t.Errorf("got %v", err)
	}
}

func TestComparePorts(t *testing.T) {
	t.Parallel()
	got := []string{"pci.2", "b", "pci.10", "a", "pci.9", "x10", "port99999999999999999999"}
	slices.SortFunc(got, blockgraph.ComparePorts)
	want := []string{"x10", "pci.10", "pci.9", "pci.2", "port99999999999999999999", "b", "a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
