package blockgraph

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Machine is what is known of the VM that a disk is planned for: enough to find
// a place for the device. Package hotplug fills it in from a running QEMU,
// package diskxml from a domain's XML. The zero value says that nothing is known:
// the plan then leaves the place to QEMU, as one does on a command line.
type Machine struct {
	// Name is what the overlay of a transient disk is named after, "" where it is
	// not known.
	Name string
	// Type is QEMU's machine type, such as "pc-q35-10.0" or "q35"; "" when
	// nothing is known of the VM.
	Type string
	// Ports are the PCI buses that take exactly one device, such as
	// pcie-root-ports, in any order.
	Ports []Port
	// RootSlots are the slots in use on the root bus. They matter on machines
	// whose root bus takes a hot plug itself (i440FX).
	RootSlots []uint
	// PCIUsed are the addresses that a domain's devices have.
	PCIUsed []PCIAddress
	// SCSI are the SCSI controllers.
	SCSI []SCSIController
	// USB is true where the VM has a USB controller.
	USB bool
	// Domain is true where the rest was read from a libvirt domain, by package diskxml:
	// what is not in it the VM does not have, and a disk without an address
	// gets the one that libvirt would give it.
	Domain bool
	// USBHubs are the domain's USB controllers and hubs, and USBUsed the ports in use.
	USBHubs []USBHub
	USBUsed []USBAddress
	// Memory says whether a server of vhost-user could see the guest's memory, as
	// far as the domain does.
	Memory MemoryAccess
	// Aliases are the ids in QEMU of controllers that the user gave a name, by those
	// that libvirt would give them, such as "scsi0" or "pci.4".
	Aliases map[string]string
	// PCI is true where the domain's PCI controllers are known.
	PCI bool
	// Bridges are the conventional PCI buses behind bridges.
	Bridges []Bridge
	// CCW are the places in use on a mainframe's channel subsystem.
	CCW []CCWAddress
	// Drives are the places in use on IDE, SATA and floppy controllers.
	Drives []UsedDrive
	// Disks are the VM's other disks.
	Disks []OtherDisk
	// IOThreads are the numbers of the VM's I/O threads.
	IOThreads []uint
	// ThrottleGroups are the limits that disks of the VM can share.
	ThrottleGroups []ThrottleGroup
	// Devices are the disk's devices as they were when it was planned before, nil
	// for a disk that is new to the VM. The guest then finds the very same again,
	// at the same place: after a restore or a migration anything else would keep
	// QEMU from loading the VM's state.
	Devices []Object
	// ReconnectSeconds is true for a QEMU that counts in seconds until it connects again to
	// a vhost-user server, as it did before 9.2: from there on it counts in
	// milliseconds, and since 10.2 it takes nothing else.
	ReconnectSeconds bool
}

// MemoryAccess says who can see a guest's memory.
type MemoryAccess string

// The accesses that a domain's <memoryBacking> and NUMA cells can give. libvirt
// takes a domain that says nothing of it for a private one; a plan leaves that to
// whoever completes the domain, and an attach asks QEMU.
const (
	MemoryUnsaid  MemoryAccess = ""
	MemoryShared  MemoryAccess = "shared"
	MemoryPrivate MemoryAccess = "private"
)

// Bridge is a conventional PCI bus: it has slots.
type Bridge struct {
	// Bus is the name of the bus in QEMU, such as "pci.3".
	Bus string
	// Slots are those in use.
	Slots []uint
}

// UsedDrive is the place of a disk that the VM has.
type UsedDrive struct {
	Bus     Bus
	Address DriveAddress
}

// OtherDisk is what must not be twice in a VM. Serial is "" and WWN 0 for none.
type OtherDisk struct {
	Target, Serial string
	WWN            uint64
	// Tune are the disk's limits, nil for none: disks of one group have the same.
	Tune *IOTune
}

// ThrottleGroup is a <throttlegroup> of the VM.
type ThrottleGroup struct {
	Limits IOTune // with the group's name
	// Exists is true where QEMU has the group's object; else the plan adds it.
	Exists bool
}

// Validate checks the group by libvirt's rules. The error is an [*InvalidError].
func (g ThrottleGroup) Validate() error {
	const element = "domain/throttlegroups/throttlegroup"
	switch {
	case g.Limits.Group == "":
		return invalid(element, "has no <group_name>: disks name it by that")
	case !g.Limits.Any():
		return invalid(element, "group_name can be configured only together with settings")
	}
	return g.Limits.validate(element)
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
	// Model is libvirt's name of its kind, such as "lsilogic"; "" is virtio-scsi.
	Model string
	// Units are the addresses in use.
	Units []SCSIUnit
}

// SCSIUnit is an address on a SCSI controller (channel 0).
type SCSIUnit struct {
	Target, LUN uint
}

// Known reports whether anything is known of the VM.
func (m Machine) Known() bool { return m.Type != "" }

// I440FX reports whether the machine is a PC with the i440FX chipset, whose host
// bridge and PIIX3 are always there and have no element in a domain.
func (m Machine) I440FX() bool {
	return m.Type == "pc" || strings.HasPrefix(m.Type, "pc-i440fx-")
}

func (m Machine) pSeries() bool { return strings.HasPrefix(m.Type, "pseries") }

// builtinESP reports whether the machine may have the SCSI controller of a Sun or a
// Macintosh on its board: no PC does.
func (m Machine) builtinESP() bool { return !m.I440FX() && !m.builtinSATA() }

// rootBusHotplug reports whether devices are plugged into the root bus itself:
// the i440FX's and the pSeries' conventional PCI bus. Everything newer has root
// ports.
func (m Machine) rootBusHotplug() bool { return m.I440FX() || m.pSeries() }

// builtinIDE reports whether the machine has IDE: no other can be added.
func (m Machine) builtinIDE() bool {
	return m.I440FX() || m.Type == "malta" || m.Type == "mac99" || m.Type == "g3beige"
}

// builtinSATA reports whether the chipset has an AHCI controller of its own. An
// unknown machine is taken for a q35, the only one where a SATA disk works
// without adding a controller.
func (m Machine) builtinSATA() bool {
	return !m.Known() || strings.Contains(m.Type, "q35")
}

// channelBus reports whether the machine is a mainframe, whose virtio devices sit
// on a channel subsystem.
func (m Machine) channelBus() bool { return strings.HasPrefix(m.Type, "s390-ccw-virtio") }

// mmio reports whether the machine's only virtio devices are behind memory-mapped
// transports.
func (m Machine) mmio() bool { return strings.HasPrefix(m.Type, "vexpress-") }

// DefaultSCSIModel returns libvirt's model of a SCSI controller of which a domain
// does not give one (qemuDomainDefaultSCSIControllerModel).
func (m Machine) DefaultSCSIModel() string {
	switch {
	case m.pSeries():
		return "ibmvscsi"
	case m.channelBus(), m.mmio(), m.Type == "virt", strings.HasPrefix(m.Type, "virt-"):
		return "virtio-scsi"
	}
	return "lsilogic"
}

// alias returns the id in QEMU of a controller that libvirt would call by this
// name.
func (m Machine) alias(name string) string { return cmp.Or(m.Aliases[name], name) }

func (m Machine) rootBus() string {
	if m.rootBusHotplug() {
		return "pci.0"
	}
	return "pcie.0"
}

// reservedPort begins the names of root ports that only luksplug plugs disks into.
// No target can be called "port".
const reservedPort = namespace + "port-"

// ReservedPort returns the id of the nth root port, from 0, that a VM has for
// luksplug's disks alone.
func ReservedPort(n int) string { return reservedPort + strconv.Itoa(n) }

// IsReservedPort reports whether a bus or an id is that of a reserved port.
func IsReservedPort(name string) bool { return strings.HasPrefix(name, reservedPort) }

// ComparePorts orders the names of PCI buses the way in which the planner tries
// them: the reserved ones, then the highest number first. libvirt
// hands out the lowest free port, so the two stay out of each other's way for as
// long as there is room.
func ComparePorts(a, b string) int {
	if ours := IsReservedPort(a); ours != IsReservedPort(b) {
		if ours {
			return -1
		}
		return 1
	}
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

// freeBridge returns a free slot of a conventional bus; slot 0 is the bridge's.
func (m Machine) freeBridge() (bus string, slot uint, ok bool) {
	for _, b := range m.Bridges {
		for slot := uint(0x1f); slot > 0; slot-- {
			if !slices.Contains(b.Slots, slot) {
				return b.Bus, slot, true
			}
		}
	}
	return "", 0, false
}

// freeCCW returns the place that libvirt gives to the next device.
func (m Machine) freeCCW() CCWAddress {
	a := CCWAddress{CSSID: virtualCSS}
	for slices.Contains(m.CCW, a) {
		a.DevNo++
	}
	return a
}
