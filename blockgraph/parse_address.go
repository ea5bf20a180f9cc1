package blockgraph

import (
	"slices"
	"strconv"
	"strings"
)

// parseAddress reads <address>, nil for a type that leaves the choice to the
// planner. It reads the tree and not libvirtxml, which turns a missing number
// and a malformed one into the same nil.
func parseAddress(e *element) (*Address, error) {
	kind := e.attr("type")
	fields := map[string][]string{
		"pci":   {"domain", "bus", "slot", "function"},
		"drive": {"controller", "bus", "target", "unit"},
		"usb":   {"bus", "port"},
	}[kind]
	switch {
	case kind == "":
		return nil, e.invalid("type", "is missing: use pci, drive or usb")
	case fields == nil && slices.Contains([]string{"ccw", "virtio-mmio", "virtio-s390", "ccid", "isa", "dimm", "unassigned", "spapr-vio", "virtio-serial"}, kind):
		return nil, e.unsupported("type", "addresses of type %q are not supported", kind)
	case fields == nil:
		return nil, e.invalid("type", "unknown address type %q: use pci, drive or usb", shorten(kind))
	}
	for _, a := range e.attrs {
		if n := a.Name.Local; n != "type" && !slices.Contains(fields, n) {
			return nil, e.invalid(n, "does not belong to an address of type %q", kind)
		}
	}
	n := numbers{e: e}
	switch kind {
	case "pci":
		a := &PCIAddress{Domain: n.get("domain", 0xffff), Bus: n.get("bus", 0xff), Slot: n.get("slot", 0x1f), Function: n.get("function", 7)}
		if n.err == nil && *a == (PCIAddress{}) {
			return nil, nil // libvirt's way to say "choose one"
		}
		return &Address{PCI: a}, n.err
	case "drive":
		return &Address{Drive: &DriveAddress{
			Controller: n.get("controller", 255), Bus: n.get("bus", 255), Target: n.get("target", 255), Unit: n.get("unit", 16383)}}, n.err
	}
	port := e.attr("port")
	for _, part := range strings.Split(port, ".") {
		if v, err := strconv.ParseUint(part, 10, 8); port != "" && (err != nil || v == 0) {
			return nil, e.invalid("port", "%q is no USB port: use numbers and dots, such as 1.2", shorten(port))
		}
	}
	return &Address{USB: &USBAddress{Bus: n.get("bus", 255), Port: port}}, n.err
}

// numbers reads the numeric attributes of e and keeps the first error.
type numbers struct {
	e   *element
	err error
}

// get reads a number in C notation (0x hexadecimal, leading 0 octal, decimal);
// a missing one is 0.
func (n *numbers) get(name string, limit uint64) uint {
	text := n.e.attr(name)
	if text == "" {
		return 0
	}
	v, err := strconv.ParseUint(text, 0, 32)
	if (err != nil || v > limit) && n.err == nil {
		n.err = n.e.invalid(name, "%q is no number from 0 to %d", shorten(text), limit)
	}
	return uint(v)
}
