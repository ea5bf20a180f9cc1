package blockgraph

import (
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// highestLUN is where the search for a free unit begins: libvirt and QEMU begin at 0. Without an address libvirt gives
// a disk a unit up to libvirtLUN, by the letters of its target.
const (
	highestLUN = 63
	libvirtLUN = 15
)

// scsiDrivers are QEMU's names of libvirt's models of SCSI controllers (formatdomain.html,
// "Controllers"). A narrow one is an old parallel bus that addresses a disk by its SCSI id,
// which libvirt calls unit; all others have targets and logical units.
var scsiDrivers = map[string]struct {
	driver       string
	narrow       bool
	conventional bool // a device of conventional PCI, which a PCI Express port does not take
}{
	"lsilogic":                {"lsi", true, true},
	"dc390":                   {"dc-390", true, true},
	"am53c974":                {"am53c974", true, true},
	"ncr53c90":                {"", true, false}, // built in
	"lsisas1068":              {"mptsas1068", false, true},
	"lsisas1078":              {"megasas", false, true},
	"vmpvscsi":                {"pvscsi", false, false},
	"ibmvscsi":                {"spapr-vscsi", false, false},
	"virtio-scsi":             {"virtio-scsi-pci", false, false},
	"virtio-transitional":     {"virtio-scsi-pci-transitional", false, true},
	"virtio-non-transitional": {"virtio-scsi-pci-non-transitional", false, false},
}

func placeSCSI(d *Disk, m Machine) (place, error) {
	switch {
	case d.Address != nil && d.Address.Drive != nil:
		return placeUnit(d, m, *d.Address.Drive)
	case m.Domain:
		return placeUnit(d, m, d.driveAddress())
	}
	for _, units := range [][2]int{{highestLUN, libvirtLUN + 1}, {libvirtLUN, 0}} {
		for _, c := range m.SCSI {
			if unit, free := c.freeUnit(units[0], units[1]); free {
				return place{members: scsiMembers(c, m, DriveAddress{Unit: unit})}, nil
			}
		}
	}
	// There is no controller, or all are full.
	return ownController(d, m, DriveAddress{Unit: highestLUN})
}

// freeUnit returns the highest free unit from one to another, of a controller that has logical units.
func (c SCSIController) freeUnit(from, to int) (uint, bool) {
	if c.narrow() {
		return 0, false
	}
	used := make(map[SCSIUnit]bool, len(c.Units)) // as many as QEMU lists
	for _, u := range c.Units {
		used[u] = true
	}
	for lun := from; lun >= to; lun-- {
		if unit := uint(lun); !used[SCSIUnit{LUN: unit}] {
			return unit, true
		}
	}
	return 0, false
}

// placeUnit places the disk at an address, from the XML or derived from the target by libvirt.
func placeUnit(d *Disk, m Machine, a DriveAddress) (place, error) {
	id := fmt.Sprintf("scsi%d", a.Controller)
	if !m.Known() {
		return place{members: scsiMembers(SCSIController{ID: id}, m, a)}, nil
	}
	i := slices.IndexFunc(m.SCSI, func(c SCSIController) bool { return c.ID == id })
	if i < 0 && m.Domain {
		return libvirtController(d, m, id, a)
	}
	if i < 0 {
		var names []string
		for _, c := range m.SCSI {
			names = append(names, c.ID)
		}
		return place{}, d.noPlace("the VM has no virtio-scsi controller %s (it has: %s): give another <address>, or none to have a free one chosen or added", id, orNone(names))
	}
	c := m.SCSI[i]
	unit := SCSIUnit{Target: a.Target, LUN: a.Unit}
	if slices.Contains(c.Units, unit) {
		return place{}, d.noPlace("target %d unit %d of the SCSI controller %s is in use: give another <address>, or none to have a free one chosen", unit.Target, unit.LUN, id)
	}
	if _, known := scsiDrivers[c.Model]; c.Model != "" && !known {
		return place{}, &PlacementError{Target: d.Target, Reason: "the SCSI controller " + id + " has the unsupported model '" + message.Shorten(c.Model) + "', which QEMU does not have"}
	}
	if c.Model == "ncr53c90" && !m.builtinESP() {
		return place{}, &PlacementError{Target: d.Target, Reason: "ncr53c90 SCSI controller is not a built-in for this machine: the domain's " + id + " cannot be of that model"}
	}
	if c.narrow() && a.Target != 0 {
		return place{}, invalid("disk/address@target", "target must be 0 for controller model '"+c.Model+"'")
	}
	return place{members: scsiMembers(c, m, a)}, nil
}

// libvirtController adds the controller that libvirt adds to a domain for a disk without one.
func libvirtController(d *Disk, m Machine, id string, a DriveAddress) (place, error) {
	model := m.DefaultSCSIModel()
	known := scsiDrivers[model]
	c := SCSIController{ID: id, Model: model}
	if c.narrow() && a.Target != 0 {
		return place{}, invalid("disk/address@target", "target must be 0 for controller model '"+model+"'")
	}
	if known.driver == "spapr-vscsi" { // on a bus of its own
		return withController(c, m, a, Object{{"driver", known.driver}}), nil
	}
	p, err := newController(d, m, c, a)
	if err != nil && known.conventional {
		return ownController(d, m, a) // supported by a running VM, too
	}
	return p, err
}

// ownController adds a virtio-scsi controller for this disk alone.
func ownController(d *Disk, m Machine, a DriveAddress) (place, error) {
	return newController(d, m, SCSIController{ID: Name(d.Target, RoleController), Model: "virtio-scsi"}, a)
}

// newController adds a controller on the machine's bus for controllers.
func newController(d *Disk, m Machine, c SCSIController, a DriveAddress) (place, error) {
	if m.channelBus() {
		return withController(c, m, a, Object{{"driver", "virtio-scsi-ccw"}}), nil
	}
	known := scsiDrivers[c.Model]
	at, err := placePCI(d, m, "SCSI controller that the disk needs", known.conventional)
	p := withController(c, m, a, append(Object{{"driver", known.driver}}, at.members...))
	p.warning = at.warning
	return p, err
}

// withController returns a place on a controller that is added with these options.
func withController(c SCSIController, m Machine, a DriveAddress, options Object) place {
	return place{members: scsiMembers(c, m, a), controller: &Device{ID: c.ID, Role: RoleController, Options: options.With("id", c.ID)}}
}

func scsiMembers(c SCSIController, m Machine, a DriveAddress) Object {
	bus := m.alias(c.ID) + ".0"
	if c.narrow() {
		return Object{{"bus", bus}, {"scsi-id", int(a.Unit)}}
	}
	return Object{{"bus", bus}, {"channel", int(a.Bus)}, {"scsi-id", int(a.Target)}, {"lun", int(a.Unit)}}
}

// narrow reports whether the controller addresses a disk by its SCSI id alone.
func (c SCSIController) narrow() bool { return scsiDrivers[c.Model].narrow }
