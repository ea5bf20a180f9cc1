package diskxml

import (
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// addressFields are the attributes of each type of address.
var addressFields = map[string][]string{
	"pci":         {"domain", "bus", "slot", "function", "multifunction"},
	"drive":       {"controller", "bus", "target", "unit"},
	"usb":         {"bus", "port"},
	"ccw":         {"cssid", "ssid", "devno"},
	"virtio-mmio": {},
}

// otherAddresses are the types of addresses that no disk has on any bus.
var otherAddresses = []string{"ccid", "isa", "dimm", "unassigned", "spapr-vio", "virtio-serial", "virtio-s390", "mdev"}

// parseAddress reads the <address> of a disk on this bus, nil for one that
// leaves the choice to the planner. It reads the tree and not libvirtxml, which
// turns a missing number and a malformed one into the same nil.
func parseAddress(e *element, bus blockgraph.Bus) (*blockgraph.Address, error) {
	kind := e.attr("type")
	fields, known := addressFields[kind]
	switch {
	case kind == "":
		return nil, e.invalid("type", "is missing: use pci, drive, usb or ccw")
	case slices.Contains(otherAddresses, kind):
		return nil, at(e.line, bus.CheckAddress(kind))
	case !known:
		return nil, e.invalid("type", "unknown address type %q: use pci, drive, usb or ccw", message.Shorten(kind))
	}
	for _, a := range e.attrs {
		if n := a.Name.Local; n != "type" && !slices.Contains(fields, n) {
			return nil, e.invalid(n, "does not belong to an address of type %q", kind)
		}
	}
	n := numbers{e: e}
	switch kind {
	case "pci":
		if err := oneOf(e, "multifunction", "on", "off"); err != nil {
			return nil, err
		}
		a := &blockgraph.PCIAddress{Domain: n.get("domain", 0xffff), Bus: n.get("bus", 0xff), Slot: n.get("slot", 0x1f), Function: n.get("function", 7)}
		if n.err == nil && *a == (blockgraph.PCIAddress{}) {
			return nil, nil // libvirt's notation for "choose one"
		}
		a.Multifunction = blockgraph.Switch(e.attr("multifunction"))
		return &blockgraph.Address{PCI: a}, n.err
	case "drive":
		return &blockgraph.Address{Drive: &blockgraph.DriveAddress{
			Controller: n.get("controller", 255), Bus: n.get("bus", 255), Target: n.get("target", 255), Unit: n.get("unit", 16383)}}, n.err
	case "ccw":
		if len(e.attrs) == 1 {
			return nil, nil
		}
		return &blockgraph.Address{CCW: &blockgraph.CCWAddress{CSSID: n.get("cssid", 0xfe), SSID: n.get("ssid", 3), DevNo: n.get("devno", 0xffff)}}, n.err
	case "virtio-mmio":
		return &blockgraph.Address{MMIO: &blockgraph.MMIOAddress{}}, nil
	}
	port := e.attr("port")
	for _, part := range strings.Split(port, ".") {
		if v, err := strconv.ParseUint(part, 10, 8); port != "" && (err != nil || v == 0) {
			return nil, e.invalid("port", "%q is no USB port: use numbers and dots, such as 1.2", message.Shorten(port))
		}
	}
	return &blockgraph.Address{USB: &blockgraph.USBAddress{Bus: n.get("bus", 255), Port: port}}, n.err
}
