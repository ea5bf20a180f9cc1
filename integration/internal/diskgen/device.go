package diskgen

import (
	"fmt"
	"strconv"

	"pgregory.net/rapid"
)

// identity draws the names of the disk for the guest and for libvirt.
func (m *maker) identity(d *Element) {
	plain := m.kind != "vhostuser"
	m.text(m.fits(plain && m.device != "lun" && m.bus != "fdc" && m.often("serial"), "serial"), d, "serial", "ABC123", "WD-WMAP9A966149", "a b.c_d-e+f", " lead", "x  y", "OTHER2", "OTHER", "0123456789012345678901234")
	m.text(m.fits((m.bus == "scsi" || m.bus == "ide") && m.device != "lun" && plain && m.seldom(3, "wwn"), "wwn"), d, "wwn", "5000c50015ea71ad", "0x5000c50015ea71ae", "ffffffffffffffff")
	if m.seldom(4, "boot") {
		d.add(element("boot", "order", m.number("order", 1, 9), "loadparm", map[bool]string{true: "LINUX"}[m.fits(false, "loadparm")]))
	}
	m.child(m.seldom(4, "alias"), d, "alias", "name", "ua-mine", "ua-a_b-c", "virtio-disk7")
}

// tuning draws the properties that the guest sees.
func (m *maker) tuning(d, target *Element) {
	plain := m.kind != "vhostuser"
	ata := m.bus == "ide" || m.bus == "sata"
	m.text(m.fits(m.bus == "scsi" && m.device != "lun" && m.seldom(4, "vendor"), "vendor"), d, "vendor", "SEAGATE", "a b", "X&Y", "12345678")
	if m.fits((m.bus == "scsi" || ata) && m.device != "lun" && m.seldom(4, "product"), "product") {
		names := []string{"ST3146707LC", "a, b", "1234567890123456"}
		if ata || m.wild {
			names = append(names, "more than sixteen characters of a model")
		}
		d.add(text("product", m.one("product name", names...)))
	}
	m.attribute(m.fits(m.device == "disk" && (m.bus == "scsi" || ata) && m.seldom(4, "rotation"), "rotation"), target, "rotation_rate", "1", "7200", "15000")
	m.attribute(m.fits((m.bus == "usb" || m.bus == "scsi" && m.device == "disk") && m.seldom(3, "removable"), "removable"), target, "removable", "", "", "on", "off")
	m.attribute(m.fits(m.device == "cdrom" && m.seldom(5, "tray"), "tray"), target, "tray", "open", "closed")
	if m.fits(plain && m.seldom(4, "blockio"), "blockio") {
		d.add(element("blockio", "logical_block_size", m.one("logical", "", "512", "4096"), "physical_block_size", m.one("physical", "", "512", "4096"),
			"discard_granularity", m.one("granularity", "", "4096", "65536")))
	}
	if m.fits(plain && m.device == "disk" && m.bus != "usb" && m.seldom(5, "geometry"), "geometry") {
		g := element("geometry", "cyls", m.number("cylinders", 1, 16383), "heads", m.number("heads", 1, 16), "secs", m.number("sectors", 1, 63))
		m.attribute(m.fits(m.bus == "ide" && m.often("translation"), "translation"), g, "trans", "auto", "none", "lba")
		d.add(g)
	}
	if m.fits(m.bus == "virtio" && m.seldom(8, "acpi"), "acpi") {
		d.add(element("acpi", "index", m.number("acpi index", 1, 20)))
	}
}

// address draws the address of the disk, nil for one that libvirt chooses.
func (m *maker) address() *Element {
	if !m.often("address") {
		return nil
	}
	bus := m.bus
	if m.wild && m.seldom(8, "strange address") {
		bus = m.one("address of", "virtio", "usb", "sata", "ccw", "virtio-mmio", "ccid", "isa")
	}
	drive := func(controller, bus, target, unit string) *Element {
		return element("address", "type", "drive", "controller", controller, "bus", bus, "target", target, "unit", unit)
	}
	switch bus {
	case "virtio":
		return m.pciAddress()
	case "usb":
		a := element("address", "type", "usb", "bus", strconv.Itoa(m.index("usb bus", max(m.usb, 1))))
		m.attribute(m.often("port"), a, "port", "2", "1", "1.2", "3", "4", "5", "7", "8", "1.8", "1.9", "2.1.1", "16")
		return a
	case "scsi":
		target := "0"
		if m.often("target") {
			target = m.one("which target", "0", "1", "7", "255")
		}
		controller := strconv.Itoa(m.index("controller", len(m.scsi)+1))
		channel := "0"
		if m.seldom(12, "channel") {
			channel = "1"
		}
		return drive(controller, channel, target, m.one("lun", "0", "1", "6", "7", "8", "255", "16383"))
	case "sata":
		return drive(m.one("sata controller", "0", "0", "1"), m.odd("sata bus"), m.odd("sata target"), m.one("sata unit", "0", "1", "3", "5"))
	case "ide":
		return drive("0", m.one("ide bus", "0", "1"), m.odd("ide target"), m.one("ide unit", "0", "1"))
	case "fdc":
		return drive("0", m.odd("fdc bus"), m.odd("fdc target"), m.one("fdc unit", "0", "1"))
	case "ccw":
		return element("address", "type", "ccw", "cssid", "0xfe", "ssid", "0x0", "devno", "0x0005")
	}
	return element("address", "type", bus)
}

// odd returns "0" in most cases.
func (m *draw) odd(what string) string {
	if m.fits(false, what) {
		return "1"
	}
	return "0"
}

func (m *draw) index(what string, n int) int {
	indexes := make([]int, n)
	for i := range indexes {
		indexes[i] = i
	}
	return rapid.SampledFrom(indexes).Draw(m.t, what)
}

func (m *maker) pciAddress() *Element {
	a := element("address", "type", "pci", "domain", "0x0000")
	bus, slot := 0, 0x10+m.index("slot", 8)
	if m.q35 {
		bus, slot = 1+m.index("bus", m.ports), 0
		if m.seldom(8, "bus of the bridge") {
			bus, slot = 7, 3
		}
		if m.seldom(8, "root bus") {
			bus, slot = 0, 0x10
		}
	} else if m.ports > 0 && m.often("behind the bridge") {
		bus = 1
	}
	if m.wild && m.seldom(8, "no bus") {
		bus = 0x20
	}
	a.set("bus", fmt.Sprintf("0x%02x", bus), "slot", fmt.Sprintf("0x%02x", slot))
	function := "0x0"
	if m.seldom(8, "function") {
		function = "0x1"
	}
	a.set("function", function)
	m.attribute(m.seldom(6, "multifunction"), a, "multifunction", "on", "off")
	return a
}
