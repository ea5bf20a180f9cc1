package blockgraph

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// place is the location of a device.
type place struct {
	members    Object  // of the device's options
	transport  string  // of a virtio device: "pci", "ccw" or "device"
	controller *Device // to be added first, nil for none
	warning    string  // for the user: the place differs from the XML's, or is the last free one
}

// placeVirtio places a virtio disk on the bus of its address, or else of the machine.
func placeVirtio(d *Disk, m Machine) (place, error) {
	a := d.Address
	if a == nil {
		a = &Address{}
	}
	switch {
	case a.CCW != nil && (m.channelBus() || !m.Known()):
		return placeCCW(d, m, *a.CCW)
	case a.MMIO != nil && m.running():
		return place{}, d.noPlace("its <address> is of type virtio-mmio, and QEMU plugs nothing there while the VM runs: remove the <address>, or give the disk to QEMU when it starts")
	case a.kind() == "" && m.mmio() && m.running():
		return place{}, d.noHotplug(m, "virtio disk")
	case a.MMIO != nil, a.kind() == "" && m.mmio():
		return place{transport: "device"}, nil
	case a.PCI == nil && m.channelBus() && m.Domain:
		return placeCCW(d, m, m.freeCCW())
	case a.PCI == nil && m.channelBus():
		return place{transport: "ccw"}, nil // QEMU finds a number
	}
	p, err := placePCI(d, m, "virtio disk", d.Model == ModelTransitional)
	p.transport = "pci"
	if a.CCW != nil {
		p.warning = fmt.Sprintf("the disk's address is of type ccw, which the machine '%s' does not have: another address is chosen for it", m.Type)
	}
	return p, err
}

// placeCCW places a device on a mainframe's channel subsystem.
func placeCCW(d *Disk, m Machine, a CCWAddress) (place, error) {
	number := fmt.Sprintf("%x.%x.%04x", a.CSSID, a.SSID, a.DevNo)
	if slices.Contains(m.CCW, a) {
		return place{}, &PlacementError{Target: d.Target, Reason: "the CCW address " + number + " is in use: give another <address>, or none to have a free one chosen"}
	}
	return place{transport: "ccw", members: Object{{"devno", number}}}, nil
}

// placePCI finds a PCI slot. A conventional device, for which PCI Express has no port, goes
// behind a bridge. If a domain has no PCI controllers, libvirt has yet to add them.
//
// libvirt does not know the devices of a running domain that it has not plugged in itself, and takes the lowest free
// port, slot of the root bus and slot behind a bridge: it collides with a device there. So the highest one is taken, and
// in a running VM a slot behind a bridge instead of the last port or slot of the root bus.
func placePCI(d *Disk, m Machine, what string, conventional bool) (place, error) {
	given := d.Address != nil && d.Address.PCI != nil
	switch {
	case m.NoPCI:
		return place{}, d.noHotplug(m, what)
	case m.RootFixed && (!given || d.Address.PCI.Bus == 0):
		return place{}, d.noPlace("pci.0 takes no hot plug of the %s in this VM: QEMU runs without ACPI, or without its hot plug of the root bus. "+
			"Add <acpi/> to <features> while the VM is off (QEMU: -machine acpi=on), or use bus='scsi' with an existing controller", what)
	case given:
		members, err := placeAt(d, m, *d.Address.PCI)
		return place{members: members}, err
	}
	switch {
	case !m.Known(), m.Domain && !m.PCI && !m.rootBusHotplug():
		return place{}, nil
	case m.rootBusHotplug():
		return placeRoot(d, m, what)
	case conventional:
		p, ok := placeBehindBridge(m)
		if !ok {
			return place{}, d.noPlace("the %s is of conventional PCI, and the VM has no bridge with a free slot for it: "+
				"add <controller type='pci' model='pcie-to-pci-bridge'/> while the VM is off, or use another model", what)
		}
		return p, nil
	}
	bus, ok, last := m.freePort()
	if (!ok || last) && !m.Domain {
		if p, behind := placeBehindBridge(m); behind {
			return p, nil
		}
	}
	if !ok && m.running() && !m.pciExpress() {
		return place{}, d.noHotplug(m, what)
	}
	if !ok {
		return place{}, d.noPlace("no hot-pluggable pcie-root-port is free for the %s (the VM has %d): "+morePorts+", or use bus='scsi' with an existing controller", what, len(m.Ports))
	}
	p := place{members: Object{{"bus", m.alias(bus)}, {"addr", "0x0"}}}
	if last {
		p.warning = m.lastPlace(bus+" was the last free pcie-root-port", "slot 0 function 0 not available", morePorts)
	}
	return p, nil
}

// placeRoot finds a slot on the root bus of conventional PCI, or behind a bridge.
func placeRoot(d *Disk, m Machine, what string) (place, error) {
	slot, others := freeSlot(m.RootSlots), 0
	if slot != 0 {
		others = countFree(m.RootSlots) - 1
	}
	if others == 0 {
		if p, ok := placeBehindBridge(m); ok && (slot == 0 || !m.Domain) {
			return p, nil
		}
	}
	if slot == 0 {
		return place{}, d.noPlace("no slot is free on pci.0 for the %s: unplug a device, or use bus='scsi' with an existing controller", what)
	}
	p := place{members: Object{{"bus", m.rootBus()}, {"addr", hex(slot)}}}
	if others == 0 {
		p.warning = m.lastPlace("slot "+hex(slot)+" was the last free one of "+m.rootBus(), "slot "+strconv.Itoa(int(slot))+" function 0 not available",
			"add a bridge while the VM is off, in libvirt <controller type='pci' model='pci-bridge'/>, for QEMU -device pci-bridge,id=NAME,chassis_nr=N")
	}
	return p, nil
}

// placeBehindBridge finds a slot behind the last bridge that has a free one.
func placeBehindBridge(m Machine) (place, bool) {
	free := slices.DeleteFunc(slices.Clone(m.Bridges), func(b Bridge) bool { return freeSlot(b.Slots) == 0 })
	if len(free) == 0 {
		return place{}, false
	}
	slices.SortFunc(free, func(a, b Bridge) int { return ComparePorts(a.Bus, b.Bus) })
	slot := freeSlot(free[0].Slots)
	p := place{members: Object{{"bus", m.alias(free[0].Bus)}, {"addr", hex(slot)}}}
	if len(free) == 1 && countFree(free[0].Slots) == 1 && (!m.rootBusHotplug() || countFree(m.RootSlots) == 0) {
		p.warning = m.lastPlace("slot "+hex(slot)+" of "+free[0].Bus+" was the last free one behind a bridge", "slot "+strconv.Itoa(int(slot))+" function 0 not available",
			"add a bridge while the VM is off")
	}
	return p, true
}

// morePorts says how a VM gets root ports.
const morePorts = "add ports while the VM is off, in libvirt <controller type='pci' model='pcie-root-port'/>, for QEMU -device pcie-root-port,id=NAME,chassis=N"

// lastPlace returns the warning that a disk takes the last free place of a running VM, "" for a domain, in which libvirt
// sees the disk.
func (m Machine) lastPlace(what, libvirtSays, remedy string) string {
	if m.Domain {
		return ""
	}
	return what + ": no other device can be plugged in there, and libvirt, which does not know this disk, fails with \"" + libvirtSays + "\": " + remedy
}

// noHotplug refuses a device for which this machine has no bus that takes a hot plug.
func (d *Disk) noHotplug(m Machine, what string) error {
	return d.noPlace("the machine '%s' has no bus that takes a hot plug of the %s: give the disk to QEMU when it starts, "+
		"use bus='scsi' with an existing virtio-scsi controller, or a machine type with hot plug, such as q35 or virt with pcie-root-ports", m.Type, what)
}

// placeAt places the device at its <address type='pci'>. libvirt calls the bus of its PCI
// controller number N "pci.N".
func placeAt(d *Disk, m Machine, a PCIAddress) (Object, error) {
	bus := m.rootBus()
	if a.Bus != 0 {
		bus = fmt.Sprintf("pci.%d", a.Bus)
		if err := checkPort(d, m, bus); err != nil {
			return nil, err
		}
	}
	if m.takes(a) {
		return nil, d.noPlace("slot %s of %s is in use: give another <address>, or none to have a free one chosen", hex(a.Slot), bus)
	}
	addr := hex(a.Slot)
	if a.Function != 0 {
		addr += "." + hex(a.Function)
	}
	members := Object{{"bus", m.alias(bus)}}
	addSwitch(&members, "multifunction", a.Multifunction)
	members.Add("addr", addr)
	return members, nil
}

// takes reports whether another device has the address. For a running VM only the slots of
// the root bus are known.
func (m Machine) takes(a PCIAddress) bool {
	if m.Domain {
		return slices.ContainsFunc(m.PCIUsed, func(o PCIAddress) bool { return o.Bus == a.Bus && o.Slot == a.Slot && o.Function == a.Function })
	}
	return a.Bus == 0 && a.Function == 0 && m.rootBusHotplug() && slices.Contains(m.RootSlots, a.Slot)
}

func checkPort(d *Disk, m Machine, bus string) error {
	if !m.Known() || m.Domain && !m.PCI || slices.ContainsFunc(m.Bridges, func(b Bridge) bool { return b.Bus == bus }) {
		return nil
	}
	var names []string
	for _, p := range m.Ports {
		if p.Bus != bus {
			names = append(names, p.Bus)
			continue
		}
		if p.Taken {
			return d.noPlace("the PCI bus %s is in use or takes no hot plug: give another <address>, or none to have a free one chosen", bus)
		}
		return nil
	}
	if m.rootBusHotplug() && len(names) == 0 {
		return nil // bridges of an i440FX are not listed: QEMU checks
	}
	slices.SortFunc(names, ComparePorts)
	return d.noPlace("the VM has no PCI bus %s (it has: %s): give another <address>, or none to have a free one chosen", bus, orNone(names))
}

// placeFixed places a disk on a bus whose addresses follow from the target's letters.
func placeFixed(d *Disk, m Machine) (Object, error) {
	a := d.driveAddress()
	if used := (UsedDrive{d.Bus, a}); slices.Contains(m.Drives, used) {
		return nil, d.noPlace("the %s address controller %d, bus %d, unit %d is in use: give another <address>, or another target", d.Bus, a.Controller, a.Bus, a.Unit)
	}
	switch {
	case d.Bus == BusFDC:
		return Object{{"unit", int(a.Unit)}}, nil
	case d.Bus == BusIDE && m.Known() && !m.builtinIDE():
		return nil, unsupported("disk/target@bus", "IDE controllers are unsupported for the machine type '"+m.Type+"': use bus='sata'")
	case d.Bus == BusIDE:
		return Object{{"bus", fmt.Sprintf("ide.%d", a.Bus)}, {"unit", int(a.Unit)}}, nil
	case a.Controller == 0 && m.builtinSATA():
		return Object{{"bus", fmt.Sprintf("ide.%d", a.Unit)}}, nil
	}
	return Object{{"bus", fmt.Sprintf("%s.%d", m.alias(fmt.Sprintf("sata%d", a.Controller)), a.Unit)}}, nil
}

func hex(n uint) string { return fmt.Sprintf("0x%x", n) }

func orNone(names []string) string { return cmp.Or(strings.Join(names, ", "), "none") }
