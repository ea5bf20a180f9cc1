package blockgraph

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Machine is what is known of the VM that a disk is planned for: enough to find
// a place for the device. Package hotplug fills it in from a running QEMU,
// [ParseDomain] from a domain's XML. The zero value says that nothing is known:
// the plan then leaves the place to QEMU, as one does on a command line.
type Machine struct {
	// Type is QEMU's machine type, such as "pc-q35-10.0" or "q35"; "" when
	// nothing is known of the VM.
	Type string
	// Ports are the PCI buses that take exactly one device, such as
	// pcie-root-ports, in any order.
	Ports []Port
	// RootSlots are the slots in use on the root bus. They matter on machines
	// whose root bus takes a hot plug itself (i440FX).
	RootSlots []uint
	// SCSI are the virtio-scsi controllers.
	SCSI []SCSIController
	// USB tells whether the VM has a USB controller.
	USB bool
}

// Port is a PCI bus for one device.
type Port struct {
	// Bus is the name of the bus in QEMU, such as "pci.4": the id of its port.
	Bus string
	// Taken is true where a device sits in the port, or where it cannot take a
	// hot plug.
	Taken bool
}

// SCSIController is a controller that disks can be added to.
type SCSIController struct {
	// ID is the controller's id in QEMU, such as "scsi0": its bus is ID + ".0".
	ID string
	// Units are the addresses in use.
	Units []SCSIUnit
}

// SCSIUnit is an address on a SCSI controller (channel 0).
type SCSIUnit struct {
	Target, LUN uint
}

// Known tells whether anything is known of the VM.
func (m Machine) Known() bool { return m.Type != "" }

// rootBusHotplug tells whether devices are plugged into the root bus itself:
// the i440FX's conventional PCI bus. Everything newer has root ports.
func (m Machine) rootBusHotplug() bool {
	return m.Type == "pc" || strings.HasPrefix(m.Type, "pc-i440fx-")
}

// builtinSATA tells whether the chipset has an AHCI controller of its own. An
// unknown machine is taken for a q35, the only one where a SATA disk works
// without adding a controller.
func (m Machine) builtinSATA() bool {
	return !m.Known() || strings.Contains(m.Type, "q35")
}

func (m Machine) rootBus() string {
	if m.rootBusHotplug() {
		return "pci.0"
	}
	return "pcie.0"
}

// ComparePorts orders the names of PCI buses the way in which the planner tries
// them: the highest number first. libvirt hands out the lowest free port, so
// the two stay out of each other's way for as long as there is room.
func ComparePorts(a, b string) int {
	an, bn := trailingNumber(a), trailingNumber(b)
	if an != bn {
		return cmp.Compare(bn, an)
	}
	return cmp.Compare(b, a)
}

func trailingNumber(s string) int {
	digits := len(strings.TrimRight(s, "0123456789"))
	n, err := strconv.Atoi(s[digits:])
	if err != nil {
		return -1
	}
	return n
}

// freePort returns the free port that is tried first.
func (m Machine) freePort() (string, bool) {
	ports := slices.Clone(m.Ports)
	slices.SortFunc(ports, func(a, b Port) int { return ComparePorts(a.Bus, b.Bus) })
	for _, p := range ports {
		if !p.Taken {
			return p.Bus, true
		}
	}
	return "", false
}

// freeSlot returns the free slot of the root bus that is tried first: from the
// top, because QEMU and libvirt hand them out from the bottom.
func (m Machine) freeSlot() (uint, bool) {
	for slot := uint(0x1f); slot > 0; slot-- {
		if !slices.Contains(m.RootSlots, slot) {
			return slot, true
		}
	}
	return 0, false
}
