package blockgraph_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// places builds the disk and returns the locations of its devices, such as
// "pci.10 0x0"; the disk's own device last.
func places(t *testing.T, doc string, m blockgraph.Machine) ([]string, error) {
	t.Helper()
	g, err := blockgraph.Build(blocktest.Parse(t, doc), m, blockgraph.Unlock{})
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
	upper := scsi(full[16:]...)
	upper.SCSI = append(upper.SCSI, blockgraph.SCSIController{ID: "myscsi"})
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
		{"unknown machine: left to QEMU", blocktest.DiskAt(vdb, ""), blockgraph.Machine{}, []string{""}, ""},
		{"the highest number, not the last name", blocktest.DiskAt(vdb, ""), q35("pci.9", "pci.10", "pci.2"), []string{"pci.10 0x0"}, ""},
		{"taken ports are skipped", blocktest.DiskAt(vdb, ""), q35("pci.9", "pci.10 taken", "pci.2"), []string{"pci.9 0x0"}, ""},
		{"names without numbers come last", blocktest.DiskAt(vdb, ""), q35("spare", "pci.2"), []string{"pci.2 0x0"}, ""},
		{"ports with any name", blocktest.DiskAt(vdb, ""), q35("hot a"), []string{"hot a 0x0"}, ""},
		{"no free port", blocktest.DiskAt(vdb, ""), q35("pci.1 taken", "pci.2 taken"), nil, "the VM has 2): add ports while the VM is off, in libvirt <controller type='pci' model='pcie-root-port'/>, for QEMU -device pcie-root-port"},
		{"no port", blocktest.DiskAt(vdb, ""), q35(), nil, "no hot-pluggable pcie-root-port is free for the virtio disk"},
		{"no PCI", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "microvm", NoPCI: true}, nil, "the machine 'microvm' has no bus that takes a hot plug of the virtio disk"},
		{"no PCI, at an address", blocktest.DiskAt(vdb, pci("0", "5", "0")), blockgraph.Machine{Type: "raspi3b", NoPCI: true}, nil, "the machine 'raspi3b' has no bus"},
		{"no PCI Express", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "g3beige"}, nil, "the machine 'g3beige' has no bus that takes a hot plug"},
		{"no PCI Express, a controller", blocktest.DiskAt("dev='sdb'", ""), blockgraph.Machine{Type: "mac99"}, nil, "hot plug of the SCSI controller that the disk needs"},
		{"PCI Express on ARM", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "virt-10.0"}, nil, "no hot-pluggable pcie-root-port is free"},
		{"PCI Express of an unknown machine", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "powernv9", Ports: ports("rp1")}, []string{"rp1 0x0"}, ""},
		{"mmio machine", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "vexpress-a9"}, nil, "the machine 'vexpress-a9' has no bus"},
		{"mmio address", blocktest.DiskAt(vdb, "<address type='virtio-mmio'/>"), blockgraph.Machine{Type: "virt-10.0", Ports: ports("rp1")}, nil, "remove the <address>"},
		{"root bus without hot plug", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "pc-i440fx-9.2", RootFixed: true}, nil, "Add <acpi/> to <features>"},
		{"root bus without hot plug, at an address", blocktest.DiskAt(vdb, pci("0", "5", "0")), blockgraph.Machine{Type: "pc-i440fx-9.2", RootFixed: true}, nil, "Add <acpi/> to <features>"},
		{"root bus without hot plug, at a bridge", blocktest.DiskAt(vdb, pci("1", "5", "0")), blockgraph.Machine{Type: "pc-i440fx-9.2", RootFixed: true}, []string{"pci.1 0x5"}, ""},
		{"address, free", blocktest.DiskAt(vdb, pci("2", "0", "0")), q35("pci.1", "pci.2"), []string{"pci.2 0x0"}, ""},
		{"address, taken", blocktest.DiskAt(vdb, pci("2", "0", "0")), q35("pci.1", "pci.2 taken"), nil, "pci.2 is in use or takes no hot plug"},
		{"address, missing", blocktest.DiskAt(vdb, pci("7", "0", "0")), q35("pci.1", "pci.10", "pci.2"), nil, "no PCI bus pci.7 (it has: pci.10, pci.2, pci.1)"},
		{"address, unknown machine", blocktest.DiskAt(vdb, pci("7", "0", "0")), blockgraph.Machine{}, []string{"pci.7 0x0"}, ""},
		{"address on the root bus, for a cold plug", blocktest.DiskAt(vdb, pci("0", "5", "1")), q35(), []string{"pcie.0 0x5.0x1"}, ""},

		{"i440fx: from the top", blocktest.DiskAt(vdb, ""), pc(0, 1), []string{"pci.0 0x1f"}, ""},
		{"i440fx: slots in use are skipped", blocktest.DiskAt(vdb, ""), pc(0, 1, 0x1f, 0x1d, 0x1e), []string{"pci.0 0x1c"}, ""},
		{"i440fx: ports do not matter", blocktest.DiskAt(vdb, ""), blockgraph.Machine{Type: "pc"}, []string{"pci.0 0x1f"}, ""},
		{"i440fx: slot 0 is the host bridge's", blocktest.DiskAt(vdb, ""), pc(all[1:]...), nil, "no slot is free on pci.0"},
		{"i440fx: full", blocktest.DiskAt(vdb, ""), pc(all...), nil, "no slot is free on pci.0 for the virtio disk: unplug a device"},
		{"i440fx: address, free", blocktest.DiskAt(vdb, pci("0", "9", "0")), pc(0, 1), []string{"pci.0 0x9"}, ""},
		{"i440fx: address, taken", blocktest.DiskAt(vdb, pci("0", "9", "0")), pc(0, 1, 9), nil, "slot 0x9 of pci.0 is in use"},
		{"i440fx: address behind a bridge", blocktest.DiskAt(vdb, pci("1", "4", "0")), pc(0, 1), []string{"pci.1 0x4"}, ""},

		{"q35: a bridge instead of the last port", blocktest.DiskAt(vdb, ""), bridged(q35("pci.1"), "pci.2", "pci.10"), []string{"pci.10 0x1f"}, ""},
		{"q35: a bridge, no port", blocktest.DiskAt(vdb, ""), bridged(q35("pci.1 taken"), "pci.2"), []string{"pci.2 0x1f"}, ""},
		{"q35: two ports, no bridge needed", blocktest.DiskAt(vdb, ""), bridged(q35("pci.1", "pci.3"), "pci.2"), []string{"pci.3 0x0"}, ""},
		{"q35: a full bridge", blocktest.DiskAt(vdb, ""), bridged(q35("pci.1"), "pci.2 full"), []string{"pci.1 0x0"}, ""},
		{"q35: a reserved port", blocktest.DiskAt(vdb, ""), bridged(q35("pci.1", "luksplug-port-0"), "pci.2"), []string{"luksplug-port-0 0x0"}, ""},
		{"q35: the address counts, also of the last port", blocktest.DiskAt(vdb, pci("1", "0", "0")), bridged(q35("pci.1"), "pci.2"), []string{"pci.1 0x0"}, ""},
		{"i440fx: a bridge instead of the last slot", blocktest.DiskAt(vdb, ""), bridged(pc(all[:0x1f]...), "pci.1"), []string{"pci.1 0x1f"}, ""},
		{"i440fx: a bridge, full", blocktest.DiskAt(vdb, ""), bridged(pc(all...), "pci.1"), []string{"pci.1 0x1f"}, ""},
		{"i440fx: the last slot", blocktest.DiskAt(vdb, ""), pc(all[:0x1f]...), []string{"pci.0 0x1f"}, ""},

		{"scsi: from 63 down", blocktest.DiskAt(sdb, ""), scsi(), []string{"scsi0.0 0 0 63"}, ""},
		{"scsi: units in use are skipped", blocktest.DiskAt(sdb, ""), scsi(blockgraph.SCSIUnit{LUN: 63}, blockgraph.SCSIUnit{LUN: 62}), []string{"scsi0.0 0 0 61"}, ""},
		{"scsi: other targets do not matter", blocktest.DiskAt(sdb, ""), scsi(blockgraph.SCSIUnit{Target: 1, LUN: 63}), []string{"scsi0.0 0 0 63"}, ""},
		{"scsi: the last unit", blocktest.DiskAt(sdb, ""), scsi(full[1:]...), []string{"scsi0.0 0 0 0"}, ""},
		{"scsi: the next controller", blocktest.DiskAt(sdb, ""), twoControllers, []string{"myscsi.0 0 0 63"}, ""},
		{"scsi: full, so one more", blocktest.DiskAt(sdb, ""), scsi(full...), []string{"pci.1 0x0", "luksplug-sdb-scsi.0 0 0 63"}, ""},
		{"scsi: none, so one", blocktest.DiskAt(sdb, ""), pc(0, 1), []string{"pci.0 0x1f", "luksplug-sdb-scsi.0 0 0 63"}, ""},
		{"scsi: none, unknown machine", blocktest.DiskAt(sdb, ""), blockgraph.Machine{}, []string{"", "luksplug-sdb-scsi.0 0 0 63"}, ""},
		{"scsi: none, and no port for one", blocktest.DiskAt(sdb, ""), q35(), nil, "is free for the SCSI controller that the disk needs"},
		{"scsi: address, free", blocktest.DiskAt(sdb, drive("0", "3", "200")), scsi(), []string{"scsi0.0 0 3 200"}, ""},
		{"scsi: address, taken", blocktest.DiskAt(sdb, drive("0", "3", "2")), scsi(blockgraph.SCSIUnit{Target: 3, LUN: 2}), nil, "target 3 unit 2 of the SCSI controller scsi0 is in use"},
		{"scsi: address, missing", blocktest.DiskAt(sdb, drive("1", "0", "0")), scsi(), nil, "no virtio-scsi controller scsi1 (it has: scsi0)"},
		{"scsi: address, none at all", blocktest.DiskAt(sdb, drive("0", "0", "0")), q35(), nil, "no virtio-scsi controller scsi0 (it has: none)"},
		{"scsi: address, unknown machine", blocktest.DiskAt(sdb, drive("2", "0", "1")), blockgraph.Machine{}, []string{"scsi2.0 0 0 1"}, ""},

		{"scsi: libvirt's units come last", blocktest.DiskAt(sdb, ""), upper, []string{"myscsi.0 0 0 63"}, ""},
		{"usb: the highest port of the last controller", blocktest.DiskAt(usbDisk, ""), usbPorts("usb.0 15", "usb1.0 2", "usb1.0 4", "usb1.0 3"), []string{"usb1.0 4"}, ""},
		{"usb: of the first one", blocktest.DiskAt(usbDisk, ""), usbPorts("usb.0 9", "usb.0 10"), []string{"usb.0 10"}, ""},
		{"usb: address, not the highest port", blocktest.DiskAt(usbDisk, "<address type='usb' bus='0' port='2'/>"), usbPorts("usb.0 2", "usb.0 4"), []string{"usb.0 2"}, ""},
		{"usb: left to QEMU", blocktest.DiskAt(usbDisk, ""), usb, []string{""}, ""},
		{"usb: unknown machine", blocktest.DiskAt(usbDisk, ""), blockgraph.Machine{}, []string{""}, ""},
		{"usb: no controller", blocktest.DiskAt(usbDisk, ""), q35(), nil, "no USB controller: add one while it is off"},
		{"usb: address", blocktest.DiskAt(usbDisk, "<address type='usb' bus='0' port='2.1'/>"), usb, []string{"usb.0 2.1"}, ""},
		{"usb: address on another controller", blocktest.DiskAt(usbDisk, "<address type='usb' bus='1' port='4'/>"), usb, []string{"usb1.0 4"}, ""},
		{"usb: address without a port", blocktest.DiskAt(usbDisk, "<address type='usb' bus='1'/>"), usb, []string{"usb1.0"}, ""},

		{"ide: by name", blocktest.DiskAt("dev='hdd'", ""), pc(), []string{"ide.1 1"}, ""},
		{"ide: address", blocktest.DiskAt("dev='hda'", drive("0", "0", "1")), pc(), []string{"ide.0 1"}, ""},
		{"sata: by name, built in", blocktest.DiskAt("dev='sdc' bus='sata'", ""), q35(), []string{"ide.2"}, ""},
		{"sata: by name, second controller", blocktest.DiskAt("dev='sdh' bus='sata'", ""), q35(), []string{"sata1.1"}, ""},
		{"sata: unknown machine", blocktest.DiskAt("dev='sdc' bus='sata'", ""), blockgraph.Machine{}, []string{"ide.2"}, ""},
		{"sata: added controller", blocktest.DiskAt("dev='sdc' bus='sata'", ""), pc(), []string{"sata0.2"}, ""},
		{"sata: address", blocktest.DiskAt("dev='sdc' bus='sata'", drive("0", "0", "5")), q35(), []string{"ide.5"}, ""},
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

// bridged adds bridges, which are full or empty.
func bridged(m blockgraph.Machine, names ...string) blockgraph.Machine {
	for _, n := range names {
		bus, full := strings.CutSuffix(n, " full")
		b := blockgraph.Bridge{Bus: bus}
		for slot := uint(1); full && slot < 0x20; slot++ {
			b.Slots = append(b.Slots, slot)
		}
		m.Bridges = append(m.Bridges, b)
	}
	return m
}

// usbPorts returns a q35 machine with free USB ports.
func usbPorts(free ...string) blockgraph.Machine {
	m := blockgraph.Machine{Type: "q35", USB: true}
	for _, f := range free {
		p := blockgraph.USBPort{}
		if _, err := fmt.Sscan(f, &p.Bus, &p.Number); err != nil {
			panic(err)
		}
		m.USBFree = append(m.USBFree, p)
	}
	return m
}

// TestLastPlace: a disk that takes the last free place of a running VM has a warning, which says how to add more.
func TestLastPlace(t *testing.T) {
	t.Parallel()
	var all []uint
	for slot := range uint(0x20) {
		all = append(all, slot)
	}
	q35 := func(names ...string) blockgraph.Machine {
		return blockgraph.Machine{Type: "q35", Ports: ports(names...)}
	}
	domain := q35("pci.1")
	domain.Domain, domain.PCI = true, true
	almost := bridged(q35("pci.1 taken"), "pci.2 full")
	almost.Bridges[0].Slots = almost.Bridges[0].Slots[1:]
	for name, c := range map[string]struct {
		attributes, extra string
		machine           blockgraph.Machine
		want              string // part of the warning, "" for none
	}{
		"port":                      {"dev='vdb'", "", q35("pci.1", "pci.2 taken"), "pci.1 was the last free pcie-root-port"},
		"port, and how to add more": {"dev='vdb'", "", q35("pci.1"), "<controller type='pci' model='pcie-root-port'/>"},
		"port for a controller":     {"dev='sda'", "", q35("pci.1"), "pci.1 was the last free pcie-root-port"},
		"two ports":                 {"dev='vdb'", "", q35("pci.1", "pci.2"), ""},
		"reserved":                  {"dev='vdb'", "", q35("luksplug-port-0", "pci.2 taken"), ""},
		"a domain's XML":            {"dev='vdb'", "", domain, ""},
		"the user's address":        {"dev='vdb'", "<address type='pci' domain='0' bus='1' slot='0' function='0'/>", q35("pci.1"), ""},
		"slot":                      {"dev='vdb'", "", blockgraph.Machine{Type: "pc", RootSlots: all[:0x1f]}, "slot 0x1f was the last free one of pci.0"},
		"two slots":                 {"dev='vdb'", "", blockgraph.Machine{Type: "pc", RootSlots: all[:0x1e]}, ""},
		"behind a bridge":           {"dev='vdb'", "", almost, "slot 0x1 of pci.2 was the last free one"},
		"USB":                       {"dev='sdb' bus='usb'", "", usbPorts("usb.0 3"), "port 3 of usb.0 was the last free USB port"},
		"two USB ports":             {"dev='sdb' bus='usb'", "", usbPorts("usb.0 3", "usb.0 4"), ""},
	} {
		g, err := blockgraph.Build(blocktest.Parse(t, blocktest.DiskAt(c.attributes, c.extra)), c.machine, blockgraph.Unlock{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Join(g.Warnings, "; "); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: the warnings are %q, want %q", name, got, c.want)
		}
	}
}

func TestIDENeedsI440FX(t *testing.T) {
	t.Parallel()
	_, err := places(t, blocktest.DiskAt("dev='hda'", ""), blockgraph.Machine{Type: "q35"})
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
