package diskxml

import (
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
)

// hubPorts is the number of ports of QEMU's usb-hub (libvirt's
// VIR_DOMAIN_USB_HUB_PORTS).
const hubPorts = 8

// readUSB reads the USB controllers and hubs of a domain, and the ports in use.
func (m *machine) readUSB(dom *libvirtxml.Domain, addresses []*element) {
	given := false
	for _, c := range dom.Devices.Controllers {
		if c.Type != "usb" {
			continue
		}
		given = true
		if ports := usbPorts(c); ports > 0 {
			m.USBHubs = append(m.USBHubs, blockgraph.USBHub{Bus: value(c.Index), Ports: ports})
		}
	}
	if !given { // libvirt adds a controller to a domain that names none
		m.USBHubs = []blockgraph.USBHub{{Ports: usbPorts(libvirtxml.DomainController{Model: m.addedUSB()})}}
	}
	m.USB = len(m.USBHubs) > 0
	for _, h := range dom.Devices.Hubs {
		if a := h.Address; a != nil && a.USB != nil && a.USB.Port != "" {
			m.USBHubs = append(m.USBHubs, blockgraph.USBHub{Bus: value(a.USB.Bus), Path: a.USB.Port, Ports: hubPorts})
		}
	}
	for _, e := range addresses {
		if e.attr("type") != "usb" {
			continue
		}
		if a, err := parseAddress(e, blockgraph.BusUSB); err == nil && a.USB.Port != "" {
			m.USBUsed = append(m.USBUsed, *a.USB)
		}
	}
}

// usbPorts returns the number of ports of libvirt's models of USB controllers
// (virDomainUSBAddressControllerModelToPorts); 0 for none, and for a companion,
// which shares the ports of another.
func usbPorts(c libvirtxml.DomainController) uint {
	switch c.Model {
	case "", "piix3-uhci", "piix4-uhci", "vt82c686b-uhci":
		return 2
	case "pci-ohci":
		return 3
	case "ehci", "ich9-ehci1":
		return 6
	case "nec-xhci", "qemu-xhci":
		if c.USB != nil && value(c.USB.Port) != 0 {
			return *c.USB.Port
		}
		return 4
	}
	return 0
}

// addedUSB returns the model of the controller that libvirt adds.
func (m *machine) addedUSB() string {
	if m.I440FX() {
		return "piix3-uhci"
	}
	return "qemu-xhci"
}
