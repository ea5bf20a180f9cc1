package diskgen

import (
	"fmt"
	"strconv"
)

// domain draws the domain: the machine, and what a disk can refer to.
func (m *maker) domain() *Element {
	machine := m.one("machine", "q35", "pc", "pc-q35-10.0", "pc-i440fx-10.0", "pc-q35-8.2", "pc-i440fx-7.2")
	m.q35 = machine != "pc" && machine[:4] != "pc-i"
	d := element("domain", "type", "qemu").add(
		text("name", "drawn"),
		text("uuid", "5ec4e700-0000-4000-8000-0000000000ff"),
		element("memory", "unit", "MiB"),
		text("vcpu", "1"),
	)
	d.child("memory").Text = "64"
	d.add(m.memory(), m.numa())
	d.add(m.ioThreads()...)
	d.add(element("os").add(&Element{Name: "type", Attrs: []Attr{{"arch", "x86_64"}, {"machine", machine}}, Text: "hvm"}))
	d.add(m.throttleGroups())
	devices := element("devices").add(text("emulator", "/usr/bin/qemu-system-x86_64"))
	devices.add(m.pci()...)
	devices.add(m.scsiControllers()...)
	devices.add(m.usbControllers()...)
	devices.add(m.driveControllers()...)
	devices.add(m.otherDisks()...)
	if m.usb > 0 && devices.child("hub") == nil && m.usbPorts > 1 && m.seldom(3, "tablet") {
		devices.add(element("input", "type", "tablet", "bus", "usb").add(element("address", "type", "usb", "bus", "0", "port", "2")))
	}
	return d.add(devices.add(element("memballoon", "model", "none")))
}

// memory draws how the guest's memory is backed; a server of vhost-user needs shared memory.
func (m *maker) memory() *Element {
	access := m.one("memory", "shared", "shared", "", "private")
	if access == "" {
		return nil
	}
	return element("memoryBacking").add(element("source", "type", "memfd"), element("access", "mode", access))
}

// numa draws cells, each of which may have its own access to memory.
func (m *maker) numa() *Element {
	if !m.seldom(6, "cells") {
		return nil
	}
	cell := element("cell", "id", "0", "cpus", "0", "memory", "64", "unit", "MiB", "memAccess", m.one("memAccess", "", "shared", "private"))
	return element("cpu").add(element("numa").add(cell))
}

func (m *maker) ioThreads() []*Element {
	if !m.often("I/O threads") {
		return nil
	}
	n := 1 + m.index("threads", 4)
	out := []*Element{text("iothreads", strconv.Itoa(n))}
	step, ids := 1, element("iothreadids")
	if m.often("numbered threads") {
		step, out = 2, append(out, ids)
	}
	for i := range n {
		id := strconv.Itoa(step*i + 1)
		ids.add(element("iothread", "id", id))
		m.threads = append(m.threads, id)
	}
	return out
}

func (m *maker) throttleGroups() *Element {
	if !m.often("throttle groups") {
		return nil
	}
	groups := element("throttlegroups")
	for range 1 + m.index("groups", 3) {
		g := m.limits("throttlegroup")
		if len(g.Children) == 0 {
			g.add(text("total_bytes_sec", m.number("limit", 1, 1<<40)))
		}
		name := m.name("limit")
		m.groups = append(m.groups, name)
		groups.add(g.add(text("group_name", name)))
	}
	return groups
}

// pci draws PCI controllers. libvirt adds those that it needs.
func (m *maker) pci() []*Element {
	if !m.q35 {
		out := []*Element{element("controller", "type", "pci", "index", "0", "model", "pci-root")}
		if m.often("bridge") {
			m.ports = 1
			out = append(out, element("controller", "type", "pci", "index", "1", "model", "pci-bridge"))
		}
		return out
	}
	m.ports = 6
	out := []*Element{element("controller", "type", "pci", "index", "0", "model", "pcie-root")}
	for i := range m.ports {
		port := element("controller", "type", "pci", "index", strconv.Itoa(i+1), "model", "pcie-root-port")
		m.child(m.seldom(12, "port with a name"), port, "alias", "name", fmt.Sprintf("ua-port%d", i+1))
		out = append(out, port)
	}
	return append(out, element("controller", "type", "pci", "index", "7", "model", "pcie-to-pci-bridge"))
}

func (m *maker) scsiControllers() []*Element {
	var out []*Element
	for i := range m.index("SCSI controllers", 3) {
		model := m.one("SCSI model", "virtio-scsi", "", "auto", "lsilogic", "virtio-transitional", "virtio-non-transitional",
			"lsisas1068", "lsisas1078", "vmpvscsi", "dc390", "am53c974")
		c := element("controller", "type", "scsi", "index", strconv.Itoa(i), "model", model)
		m.child(m.seldom(6, "controller with a name"), c, "alias", "name", fmt.Sprintf("ua-scsi%d", i))
		m.scsi = append(m.scsi, model)
		out = append(out, c)
	}
	return out
}

func (m *maker) usbControllers() []*Element {
	m.usb, m.usbPorts = 1, 2
	switch m.one("USB", "", "xhci", "two", "ehci", "piix3", "none", "hub", "any") {
	case "xhci":
		c := element("controller", "type", "usb", "index", "0", "model", "qemu-xhci")
		if m.often("ports of the controller") {
			m.usbPorts = 0
			c.set("ports", m.number("USB ports", 1, 15))
		}
		return append([]*Element{c}, m.hubs()...)
	case "two":
		m.usb = 2
		return []*Element{element("controller", "type", "usb", "index", "0", "model", "qemu-xhci"),
			element("controller", "type", "usb", "index", "1", "model", "nec-xhci")}
	case "ehci":
		out := []*Element{element("controller", "type", "usb", "index", "0", "model", "ich9-ehci1")}
		for i := range 3 {
			companion := element("controller", "type", "usb", "index", "0", "model", fmt.Sprintf("ich9-uhci%d", i+1))
			out = append(out, companion.add(element("master", "startport", strconv.Itoa(2*i))))
		}
		return out
	case "piix3":
		c := element("controller", "type", "usb", "index", "0", "model", "piix3-uhci")
		m.child(m.often("USB controller with a name"), c, "alias", "name", "ua-usb0")
		return []*Element{c}
	case "none":
		m.usb = 0
		return []*Element{element("controller", "type", "usb", "index", "0", "model", "none")}
	case "any":
		return []*Element{element("controller", "type", "usb", "index", "0")}
	case "hub":
		return m.hubs()
	}
	return nil
}

// hubs draws USB hubs, whose ports have names like 1.2.
func (m *maker) hubs() []*Element {
	if !m.often("hub") {
		return nil
	}
	return []*Element{element("hub", "type", "usb").add(element("address", "type", "usb", "bus", "0", "port", "1"))}
}

func (m *maker) driveControllers() []*Element {
	var out []*Element
	if m.seldom(4, "SATA controller") {
		for i := range 1 + m.index("SATA controllers", 2) {
			c := element("controller", "type", "sata", "index", strconv.Itoa(i))
			m.child(m.seldom(4, "SATA controller with a name"), c, "alias", "name", fmt.Sprintf("ua-sata%d", i))
			out = append(out, c)
		}
	}
	if !m.q35 && m.seldom(6, "IDE controller") {
		out = append(out, element("controller", "type", "ide", "index", "0"))
	}
	return out
}

// otherDisks draws a disk that the domain already has.
func (m *maker) otherDisks() []*Element {
	if !m.seldom(3, "other disk") {
		return nil
	}
	bus := m.one("bus of the other disk", "virtio", "scsi", "sata")
	target := map[string]string{"virtio": "vda", "scsi": "sda", "sata": "sdb"}[bus]
	d := element("disk", "type", "file", "device", "disk").add(
		element("driver", "name", "qemu", "type", "raw"),
		element("source", "file", "/srv/images/other.img"),
		element("target", "dev", target, "bus", bus),
	)
	if m.seldom(4, "limits of the other disk") {
		d.add(element("iotune").add(text("total_bytes_sec", "1000"), text("group_name", "shared")))
	}
	if m.bus == "" && bus == "virtio" && m.often("address of the other disk") {
		d.add(m.pciAddress())
	}
	return []*Element{d.add(text("serial", "OTHER"), element("alias", "name", OtherAlias+"-0"))}
}
