package blockgraph

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// ParseDomain reads a libvirt <domain> document and returns what a disk is
// planned by: the machine type, the PCI ports, the SCSI and USB controllers
// and the addresses in use. In the XML of a running domain all addresses are
// there; in one that was never started libvirt has yet to choose some.
func ParseDomain(data []byte) (Machine, error) {
	if len(data) > 16*maxXMLBytes {
		return Machine{}, &XMLError{Element: "domain", Reason: fmt.Sprintf("%d bytes are more than a <domain> can need", len(data))}
	}
	var dom libvirtxml.Domain
	if err := xml.Unmarshal(data, &dom); err != nil {
		return Machine{}, malformed("domain", err)
	}
	m := Machine{}
	if dom.OS != nil && dom.OS.Type != nil {
		m.Type = dom.OS.Type.Machine
	}
	if m.Type == "" {
		return Machine{}, &XMLError{Element: "domain/os/type@machine", Reason: "is missing: it decides where a device can be plugged"}
	}
	if dom.Devices == nil {
		dom.Devices = &libvirtxml.DomainDeviceList{}
	}
	taken := takenSlots(data)
	hasUSB := false
	for _, c := range dom.Devices.Controllers {
		index := uint(0)
		if c.Index != nil {
			index = *c.Index
		}
		switch c.Type {
		case "pci":
			// pcie-root-ports and downstream ports take one device each; the
			// roots are pci.0 and pcie.0, which are not ports.
			if c.Model == "pcie-root-port" || c.Model == "pcie-switch-downstream-port" {
				bus := fmt.Sprintf("pci.%d", index)
				off := c.PCI != nil && c.PCI.Target != nil && c.PCI.Target.Hotplug == "off"
				m.Ports = append(m.Ports, Port{Bus: bus, Taken: off || len(taken[index]) > 0})
			}
		case "scsi":
			if c.Model == "" || strings.HasPrefix(c.Model, "virtio") {
				m.SCSI = append(m.SCSI, SCSIController{ID: fmt.Sprintf("scsi%d", index), Units: takenUnits(&dom, index)})
			}
		case "usb":
			hasUSB = true
			m.USB = m.USB || c.Model != "none"
		}
	}
	if !hasUSB {
		// libvirt adds a USB controller to a domain that says nothing of one;
		// in the XML of a domain that it has read, the controller is there.
		m.USB = true
	}
	if m.rootBusHotplug() {
		// The host bridge and the PIIX3 are always there and have no element.
		markTaken(taken, 0, 0)
		markTaken(taken, 0, 1)
	}
	for slot := range uint(0x20) {
		if taken[0][slot] {
			m.RootSlots = append(m.RootSlots, slot)
		}
	}
	return m, nil
}

// takenSlots finds every <address type='pci'> of the document, whatever device
// it belongs to: slots in use by bus. Those in a <source> are the host's.
func takenSlots(data []byte) map[uint]map[uint]bool {
	taken := map[uint]map[uint]bool{}
	d := xml.NewDecoder(strings.NewReader(string(data)))
	sources := 0
	for {
		token, err := d.Token()
		if err != nil {
			return taken // the whole document was read before, so this is its end
		}
		if end, ok := token.(xml.EndElement); ok && end.Name.Local == "source" {
			sources--
		}
		start, ok := token.(xml.StartElement)
		if ok && start.Name.Local == "source" {
			sources++
		}
		if !ok || start.Name.Local != "address" || sources > 0 {
			continue
		}
		e := &element{name: "address", path: "address", attrs: start.Attr}
		n := numbers{e: e}
		bus, slot := n.get("bus", 0xff), n.get("slot", 0x1f)
		if e.attr("type") != "pci" || n.err != nil {
			continue
		}
		markTaken(taken, bus, slot)
	}
}

func markTaken(taken map[uint]map[uint]bool, bus, slot uint) {
	if taken[bus] == nil {
		taken[bus] = map[uint]bool{}
	}
	taken[bus][slot] = true
}

func takenUnits(dom *libvirtxml.Domain, controller uint) []SCSIUnit {
	var units []SCSIUnit
	add := func(a *libvirtxml.DomainAddress) {
		if a != nil && a.Drive != nil && value(a.Drive.Controller) == controller {
			units = append(units, SCSIUnit{Target: value(a.Drive.Target), LUN: value(a.Drive.Unit)})
		}
	}
	for _, d := range dom.Devices.Disks {
		if d.Target != nil && d.Target.Bus == "scsi" {
			add(d.Address)
		}
	}
	for _, h := range dom.Devices.Hostdevs { // SCSI pass-through: the only ones with a drive address
		add(h.Address)
	}
	return units
}

func value(n *uint) uint {
	if n == nil {
		return 0
	}
	return *n
}
