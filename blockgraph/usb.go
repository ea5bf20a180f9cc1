package blockgraph

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// USBHub is a USB controller of a domain, or a hub behind one: it has ports.
type USBHub struct {
	Bus   uint   // the number of the controller
	Path  string // the port of the hub, such as "1.2"; "" for the controller itself
	Ports uint   // the number of its ports
}

// placeUSB places a USB disk at the port of its address. Without one it takes the highest free port, since libvirt and
// QEMU take the lowest; if the ports are not known, QEMU finds one.
func placeUSB(d *Disk, m Machine) (place, error) {
	if d.Address == nil || d.Address.USB == nil {
		if m.Known() && !m.USB {
			return place{}, &PlacementError{Target: d.Target, Reason: "the VM has no USB controller: add one while it is off (libvirt: <controller type='usb' model='qemu-xhci'/>, QEMU: -device qemu-xhci), or use another bus"}
		}
		return m.freeUSB(), nil
	}
	a := *d.Address.USB
	if err := m.checkUSB(d.Target, a); err != nil {
		return place{}, err
	}
	name := "usb"
	if a.Bus > 0 {
		name += strconv.FormatUint(uint64(a.Bus), 10)
	}
	members := Object{{"bus", m.alias(name) + ".0"}}
	members.AddText("port", a.Port)
	return place{members: members}, nil
}

// freeUSB returns the highest free port of the last controller that has one.
func (m Machine) freeUSB() place {
	if len(m.USBFree) == 0 {
		return place{}
	}
	best := slices.MinFunc(m.USBFree, func(a, b USBPort) int {
		return cmp.Or(ComparePorts(strings.TrimSuffix(a.Bus, ".0"), strings.TrimSuffix(b.Bus, ".0")), cmp.Compare(b.Number, a.Number))
	})
	port := strconv.FormatUint(uint64(best.Number), 10)
	p := place{members: Object{{"bus", best.Bus}, {"port", port}}}
	if len(m.USBFree) == 1 {
		p.warning = m.lastPlace("port "+port+" of "+best.Bus+" was the last free USB port", "usb port "+port+" in use",
			"add a controller while the VM is off, in libvirt <controller type='usb' model='qemu-xhci'/>, for QEMU -device qemu-xhci,id=NAME")
	}
	return p
}

// checkUSB refuses a port that the domain does not have, or that is in use.
func (m Machine) checkUSB(target string, a USBAddress) error {
	if !m.Domain {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return &PlacementError{Target: target, Reason: fmt.Sprintf(format, args...) + ": give another <address>, or none to have a free port chosen"}
	}
	hub := m.usbHub(a.Bus, "")
	if hub == nil {
		return refuse("missing USB bus %d, the domain has no USB controller of this index", a.Bus)
	}
	if a.Port == "" {
		return nil
	}
	if slices.Contains(m.USBUsed, a) {
		return refuse("the USB port %s of the bus %d is in use", a.Port, a.Bus)
	}
	parts := strings.Split(a.Port, ".")
	for i, part := range parts {
		if n, err := strconv.ParseUint(part, 10, 8); err != nil || n > uint64(hub.Ports) {
			return refuse("requested USB port %s not present on USB bus %d", a.Port, a.Bus)
		}
		if i == len(parts)-1 {
			break
		}
		path := strings.Join(parts[:i+1], ".")
		if hub = m.usbHub(a.Bus, path); hub == nil {
			return refuse("there is no hub at port %s of USB bus %d", path, a.Bus)
		}
	}
	return nil
}

func (m Machine) usbHub(bus uint, path string) *USBHub {
	i := slices.IndexFunc(m.USBHubs, func(h USBHub) bool { return h.Bus == bus && h.Path == path })
	if i < 0 {
		return nil
	}
	return &m.USBHubs[i]
}
