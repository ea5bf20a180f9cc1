package blockgraph

import (
	"fmt"
	"slices"
	"strings"
)

// place is where a device goes: the members of its -device that say so.
type place struct {
	members Object
	// controller is what has to be added first, nil for nothing.
	controller *Device
}

// highestLUN is where the search for a free unit begins. libvirt and QEMU begin
// at 0, so the units from above stay quiet.
const highestLUN = 63

// findPlace decides where the disk's device goes, from its address or, without
// one, from what is free.
func findPlace(d *Disk, m Machine) (place, error) {
	switch d.Bus {
	case BusVirtio:
		members, err := placePCI(d, m, "virtio disk")
		return place{members: members}, err
	case BusSCSI:
		return placeSCSI(d, m)
	case BusUSB:
		return placeUSB(d, m)
	case BusIDE, BusSATA, BusFDC:
		members, err := placeFixed(d, m)
		return place{members: members}, err
	}
	return place{}, &UnsupportedError{Element: "disk/target@bus", Reason: fmt.Sprintf("the bus %q is not supported", d.Bus)}
}

func placePCI(d *Disk, m Machine, what string) (Object, error) {
	if d.Address != nil && d.Address.PCI != nil {
		return placeAt(d, m, *d.Address.PCI)
	}
	switch {
	case !m.Known():
		return nil, nil
	case m.rootBusHotplug():
		slot, ok := m.freeSlot()
		if !ok {
			return nil, &PlacementError{Target: d.Target, Reason: fmt.Sprintf("no slot is free on pci.0 for the %s: unplug a device, or use bus='scsi' with an existing controller", what)}
		}
		return Object{{"bus", m.rootBus()}, {"addr", hex(slot)}}, nil
	}
	bus, ok := m.freePort()
	if !ok {
		return nil, &PlacementError{Target: d.Target, Reason: fmt.Sprintf("no hot-pluggable pcie-root-port is free for the %s (the VM has %d): "+
			"add ports while the VM is off, in libvirt <controller type='pci' model='pcie-root-port'/>, for QEMU -device pcie-root-port,id=NAME,chassis=N, or use bus='scsi' with an existing controller", what, len(m.Ports))}
	}
	return Object{{"bus", bus}, {"addr", "0x0"}}, nil
}

// placeAt puts the device where <address type='pci'> says. libvirt calls the
// bus of its PCI controller number N "pci.N".
func placeAt(d *Disk, m Machine, a PCIAddress) (Object, error) {
	bus := m.rootBus()
	if a.Bus != 0 {
		bus = fmt.Sprintf("pci.%d", a.Bus)
		if err := checkPort(d, m, bus); err != nil {
			return nil, err
		}
	} else if m.rootBusHotplug() && slices.Contains(m.RootSlots, a.Slot) && a.Function == 0 {
		return nil, &PlacementError{Target: d.Target, Reason: fmt.Sprintf("slot %s of pci.0 is in use: give another <address>, or none to have a free one chosen", hex(a.Slot))}
	}
	addr := hex(a.Slot)
	if a.Function != 0 {
		addr += "." + hex(a.Function)
	}
	return Object{{"bus", bus}, {"addr", addr}}, nil
}

func checkPort(d *Disk, m Machine, bus string) error {
	if !m.Known() {
		return nil
	}
	var names []string
	for _, p := range m.Ports {
		if p.Bus != bus {
			names = append(names, p.Bus)
			continue
		}
		if p.Taken {
			return &PlacementError{Target: d.Target, Reason: fmt.Sprintf("the PCI bus %s is in use or takes no hot plug: give another <address>, or none to have a free one chosen", bus)}
		}
		return nil
	}
	if m.rootBusHotplug() && len(names) == 0 {
		return nil // bridges of an i440FX are not listed; QEMU says if there is none
	}
	slices.SortFunc(names, ComparePorts)
	return &PlacementError{Target: d.Target, Reason: fmt.Sprintf("the VM has no PCI bus %s (it has: %s): give another <address>, or none to have a free one chosen", bus, orNone(names))}
}

func placeSCSI(d *Disk, m Machine) (place, error) {
	if d.Address != nil && d.Address.Drive != nil {
		a := *d.Address.Drive
		id := fmt.Sprintf("scsi%d", a.Controller)
		unit := SCSIUnit{Target: a.Target, LUN: a.Unit}
		if err := checkUnit(d, m, id, unit); err != nil {
			return place{}, err
		}
		return place{members: scsiMembers(id, a.Bus, unit)}, nil
	}
	for _, c := range m.SCSI {
		for lun := highestLUN; lun >= 0; lun-- {
			if unit := (SCSIUnit{LUN: uint(lun)}); !slices.Contains(c.Units, unit) {
				return place{members: scsiMembers(c.ID, 0, unit)}, nil
			}
		}
	}
	// No controller, or every one is full: bring one along.
	id := Name(d.Target, RoleController)
	members, err := placePCI(d, m, "SCSI controller that the disk needs")
	if err != nil {
		return place{}, err
	}
	options := append(Object{{"driver", "virtio-scsi-pci"}}, members...)
	options.add("id", id)
	return place{
		members:    scsiMembers(id, 0, SCSIUnit{LUN: highestLUN}),
		controller: &Device{ID: id, Role: RoleController, Options: options},
	}, nil
}

func checkUnit(d *Disk, m Machine, id string, unit SCSIUnit) error {
	if !m.Known() {
		return nil
	}
	var names []string
	for _, c := range m.SCSI {
		if c.ID != id {
			names = append(names, c.ID)
			continue
		}
		if slices.Contains(c.Units, unit) {
			return &PlacementError{Target: d.Target, Reason: fmt.Sprintf("target %d unit %d of the SCSI controller %s is in use: give another <address>, or none to have a free one chosen", unit.Target, unit.LUN, id)}
		}
		return nil
	}
	return &PlacementError{Target: d.Target, Reason: fmt.Sprintf("the VM has no virtio-scsi controller %s (it has: %s): give another <address>, or none to have a free one chosen or added", id, orNone(names))}
}

func scsiMembers(controller string, channel uint, u SCSIUnit) Object {
	return Object{{"bus", controller + ".0"}, {"channel", int(channel)}, {"scsi-id", int(u.Target)}, {"lun", int(u.LUN)}}
}

func placeUSB(d *Disk, m Machine) (place, error) {
	if d.Address != nil && d.Address.USB != nil {
		bus := "usb.0"
		if n := d.Address.USB.Bus; n > 0 {
			bus = fmt.Sprintf("usb%d.0", n)
		}
		members := Object{{"bus", bus}}
		members.addText("port", d.Address.USB.Port)
		return place{members: members}, nil
	}
	if m.Known() && !m.USB {
		return place{}, &PlacementError{Target: d.Target, Reason: "the VM has no USB controller: add one while it is off (libvirt: <controller type='usb' model='qemu-xhci'/>, QEMU: -device qemu-xhci), or use another bus"}
	}
	return place{}, nil // QEMU finds a free port on any USB bus
}

// placeFixed places a disk on a bus whose addresses follow from the target's
// letters.
func placeFixed(d *Disk, m Machine) (Object, error) {
	a := d.fixedAddress()
	switch {
	case d.Bus == BusFDC:
		return Object{{"unit", int(a.Unit)}}, nil
	case d.Bus == BusIDE && m.Known() && !m.rootBusHotplug():
		return nil, &UnsupportedError{Element: "disk/target@bus", Reason: "IDE controllers are unsupported for the machine type '" + m.Type + "': use bus='sata'"}
	case d.Bus == BusIDE:
		return Object{{"bus", fmt.Sprintf("ide.%d", a.Bus)}, {"unit", int(a.Unit)}}, nil
	case a.Controller == 0 && m.builtinSATA():
		return Object{{"bus", fmt.Sprintf("ide.%d", a.Unit)}}, nil
	}
	return Object{{"bus", fmt.Sprintf("sata%d.%d", a.Controller, a.Unit)}}, nil
}

// fixedAddress is the address of an ide, sata or fdc disk: the one that is
// given, or the one that libvirt derives from the target's letters.
func (d *Disk) fixedAddress() DriveAddress {
	if d.Address != nil && d.Address.Drive != nil {
		return *d.Address.Drive
	}
	_, index, _ := splitTarget(d.Target) // validated before
	n := uint(index)
	switch d.Bus {
	case BusIDE:
		return DriveAddress{Controller: n / 4, Bus: n % 4 / 2, Unit: n % 2}
	case BusSATA:
		return DriveAddress{Controller: n / 6, Unit: n % 6}
	default:
		return DriveAddress{Controller: n / 2, Unit: n % 2}
	}
}

func hex(n uint) string { return fmt.Sprintf("0x%x", n) }

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
