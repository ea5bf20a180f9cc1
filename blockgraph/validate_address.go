package blockgraph

import (
	"fmt"
)

// validateAddress checks that the device can have its address at all; the
// planner checks it against the VM.
func (d *Disk) validateAddress() error {
	a := d.Address
	if a == nil {
		if n := d.driveAddress().Controller; n > 0 && (d.Bus == BusIDE || d.Bus == BusFDC) {
			return invalid("disk/target@dev", "only a single "+string(d.Bus)+" controller is supported, and "+d.Target+" would need another one: use a name from the start of the alphabet")
		}
		return nil
	}
	if err := d.Bus.CheckAddress(a.kind()); err != nil {
		return err
	}
	switch {
	case a.PCI == nil && d.Tuning.ACPIIndex != 0:
		return invalid("disk/acpi@index", "an ACPI index is only supported for PCI devices")
	case a.PCI != nil && a.PCI.Domain != 0:
		return unsupported("disk/address@domain", "only the PCI domain 0 is available: use domain='0x0000'")
	case a.CCW != nil && a.CCW.CSSID != virtualCSS:
		return invalid("disk/address@cssid", fmt.Sprintf("0x%x is no channel subsystem of virtual devices: use cssid='0xfe'", a.CCW.CSSID))
	case a.MMIO != nil && (d.Model == ModelTransitional || d.Model == ModelNonTransitional):
		return invalid("disk@model", "the model '"+string(d.Model)+"' is for PCI only: remove it, or use an address of type pci")
	case a.Drive != nil:
		return d.validateDrive(*a.Drive)
	}
	return nil
}

// validateDrive refuses numbers that the bus does not have: they are not passed
// to QEMU, and would be lost. The unit is passed, and QEMU checks it, as with
// libvirt.
func (d *Disk) validateDrive(a DriveAddress) error {
	most := map[Bus]DriveAddress{
		BusSCSI: {Controller: 255, Target: 255, Unit: 16383},
		BusIDE:  {Bus: 1, Unit: 255},
		BusSATA: {Controller: 255, Unit: 255},
		BusFDC:  {Unit: 255},
	}[d.Bus]
	for _, n := range []struct {
		attr       string
		value, max uint
	}{
		{"controller", a.Controller, most.Controller},
		{"bus", a.Bus, most.Bus},
		{"target", a.Target, most.Target},
		{"unit", a.Unit, most.Unit},
	} {
		if n.value > n.max {
			return invalid("disk/address@"+n.attr, fmt.Sprintf("%d is more than the bus type '%s' has: %d at most", n.value, d.Bus, n.max))
		}
	}
	return nil
}
