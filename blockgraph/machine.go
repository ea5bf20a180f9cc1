package blockgraph

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Machine describes the VM that a disk is planned for, with all that placing the device requires.
// Package hotplug fills it in from a running QEMU, package diskxml from a domain's XML. The zero value
// is an unknown VM: the plan then leaves the location to QEMU.
type Machine struct {
	Name string // names the overlay of a transient disk, "" where it is not known
	Type string // QEMU's machine type, such as "pc-q35-10.0" or "q35"; "" for an unknown VM

	Ports     []Port       // PCI buses for one device each, such as pcie-root-ports, in any order
	RootSlots []uint       // the slots in use on a root bus that supports hot plug itself (i440FX)
	PCIUsed   []PCIAddress // the addresses of a domain's devices
	PCI       bool         // the domain's PCI controllers are known
	NoPCI     bool         // a running VM that has no PCI bus, such as a microvm
	RootFixed bool         // the root bus of this running VM takes no hot plug, although its machine type does
	Bridges   []Bridge     // conventional PCI buses behind bridges, in any order
	SCSI      []SCSIController
	USB       bool         // the VM has a USB controller
	USBHubs   []USBHub     // the domain's USB controllers and hubs
	USBUsed   []USBAddress // the USB ports in use
	USBFree   []USBPort    // free ports of a running VM's USB controllers; none where they are not known
	CCW       []CCWAddress // the addresses in use on the channel subsystem of a mainframe
	Drives    []UsedDrive  // the addresses in use on IDE, SATA and floppy controllers

	// Domain is true if the rest was read from a libvirt domain: the lists are complete, and a disk
	// without an address gets the one that libvirt would assign.
	Domain bool
	Memory MemoryAccess // whether a vhost-user server could access the guest's memory
	// Aliases are the ids in QEMU of controllers with a user alias, by the ids that
	// libvirt would give them, such as "scsi0" or "pci.4".
	Aliases        map[string]string
	Disks          []OtherDisk // the VM's other disks
	IOThreads      []uint      // the numbers of the VM's I/O threads
	ThrottleGroups []ThrottleGroup

	// Devices are the disk's devices in an earlier plan, nil for a disk that is new to the VM. The
	// guest gets identical devices at the same addresses; otherwise QEMU could not load the VM's state
	// after a restore or a migration.
	Devices []Object
	// ReconnectSeconds is true for a QEMU before 9.2, which counts in seconds until it
	// reconnects to a vhost-user server. Later versions accept milliseconds, and since
	// 10.2 nothing else.
	ReconnectSeconds bool
}

// MemoryAccess says who can access a guest's memory.
type MemoryAccess string

// The values that a domain's <memoryBacking> and NUMA cells can set. libvirt treats a domain without
// either as private. A plan leaves that open, and an attach queries QEMU.
const (
	MemoryUnsaid  MemoryAccess = ""
	MemoryShared  MemoryAccess = "shared"
	MemoryPrivate MemoryAccess = "private"
)

// Bridge is a conventional PCI bus, such as "pci.3", with the slots in use.
type Bridge struct {
	Bus   string
	Slots []uint
}

// UsedDrive is the address of one of the VM's disks.
type UsedDrive struct {
	Bus     Bus
	Address DriveAddress
}

// OtherDisk is a disk of the VM, with the values that must be unique in a VM. Serial is "", WWN 0 and
// Tune nil for none; disks of one group have the same limits.
type OtherDisk struct {
	Target, Serial string
	WWN            uint64
	Tune           *IOTune
}

// ThrottleGroup is a <throttlegroup> of the VM.
type ThrottleGroup struct {
	Limits IOTune // with the group's name
	Exists bool   // QEMU has the group's object; else the plan adds it
}

// Validate checks the group by libvirt's rules. The error is an [*InvalidError].
func (g ThrottleGroup) Validate() error {
	const element = "domain/throttlegroups/throttlegroup"
	switch {
	case g.Limits.Group == "":
		return invalid(element, "has no <group_name>, by which disks refer to it")
	case !g.Limits.Any():
		return invalid(element, "group_name can be configured only together with settings")
	}
	return g.Limits.validate(element)
}

// Port is a PCI bus for one device.
type Port struct {
	Bus   string // in QEMU, such as "pci.4": the id of the port
	Taken bool   // a device is in the port, or it does not support hot plug
}

// USBPort is a port of a USB controller.
type USBPort struct {
	Bus    string // in QEMU, such as "usb.0"
	Number uint
}

// SCSIController is a controller that disks can be added to.
type SCSIController struct {
	ID    string     // in QEMU, such as "scsi0": its bus is ID + ".0"
	Model string     // in libvirt, such as "lsilogic"; "" is virtio-scsi
	Units []SCSIUnit // the addresses in use
}

// SCSIUnit is an address on a SCSI controller (channel 0).
type SCSIUnit struct {
	Target, LUN uint
}

// Known reports whether anything is known of the VM.
func (m Machine) Known() bool { return m.Type != "" }

// running reports whether the VM runs, so that devices are plugged into it.
func (m Machine) running() bool { return m.Known() && !m.Domain }

// I440FX reports whether the machine is a PC with the i440FX chipset, whose host
// bridge and PIIX3 are always there and have no element in a domain.
func (m Machine) I440FX() bool {
	return m.Type == "pc" || strings.HasPrefix(m.Type, "pc-i440fx-")
}

func (m Machine) pSeries() bool { return strings.HasPrefix(m.Type, "pseries") }

// builtinESP reports whether the machine may have the on-board SCSI controller of a Sun or a Macintosh.
func (m Machine) builtinESP() bool { return !m.I440FX() && !m.builtinSATA() }

// rootBusHotplug reports whether devices are plugged into the root bus itself, the
// conventional PCI bus of i440FX and pSeries. Newer machines have root ports.
func (m Machine) rootBusHotplug() bool { return m.I440FX() || m.pSeries() }

// pciExpress reports whether PCI Express ports can be added to the machine, as far as its type says.
func (m Machine) pciExpress() bool {
	return len(m.Ports) > 0 || strings.Contains(m.Type, "q35") || strings.HasPrefix(m.Type, "virt") || slices.Contains([]string{"microvm", "sbsa-ref"}, m.Type)
}

// builtinIDE reports whether the machine has IDE: no other can be added.
func (m Machine) builtinIDE() bool {
	return m.I440FX() || m.Type == "malta" || m.Type == "mac99" || m.Type == "g3beige"
}

// builtinSATA reports whether the chipset has an AHCI controller. An unknown machine is
// treated as q35, the only one where a SATA disk needs no additional controller.
func (m Machine) builtinSATA() bool { return !m.Known() || strings.Contains(m.Type, "q35") }

// channelBus reports whether the machine is a mainframe, with virtio devices on a channel subsystem.
func (m Machine) channelBus() bool { return strings.HasPrefix(m.Type, "s390-ccw-virtio") }

// mmio reports whether the machine has virtio devices behind memory-mapped transports only.
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

// alias returns the id in QEMU of a controller, by the id that libvirt would give it.
func (m Machine) alias(name string) string { return cmp.Or(m.Aliases[name], name) }

func (m Machine) rootBus() string {
	if m.rootBusHotplug() {
		return "pci.0"
	}
	return "pcie.0"
}

// reservedPort begins the names of root ports that only luksplug uses; "port" is no valid target.
const reservedPort = namespace + "port-"

// ReservedPort returns the id of the nth root port, from 0, that is reserved for luksplug's disks.
func ReservedPort(n int) string { return reservedPort + strconv.Itoa(n) }

// IsReservedPort reports whether a bus or an id is that of a reserved port.
func IsReservedPort(name string) bool { return strings.HasPrefix(name, reservedPort) }

// ComparePorts orders the names of PCI buses as the planner tries them: reserved ports,
// then the highest number first, because libvirt uses the lowest free port.
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

// freePort returns the free port that is tried first, and whether it is the last free one that
// others may use as well.
func (m Machine) freePort() (bus string, ok, last bool) {
	free := slices.DeleteFunc(slices.Clone(m.Ports), func(p Port) bool { return p.Taken })
	if len(free) == 0 {
		return "", false, false
	}
	slices.SortFunc(free, func(a, b Port) int { return ComparePorts(a.Bus, b.Bus) })
	return free[0].Bus, true, len(free) == 1 && !IsReservedPort(free[0].Bus)
}

// countFree returns the number of slots that are not used, without the bridge's.
func countFree(used []uint) int {
	free := 0
	for slot := uint(1); slot <= lastSlot; slot++ {
		if !slices.Contains(used, slot) {
			free++
		}
	}
	return free
}

// lastSlot is the highest slot of a PCI bus.
const lastSlot = 0x1f

// freeSlot returns the highest slot that is not used, 0 for none: slot 0 is the bridge's,
// and QEMU and libvirt use the lowest.
func freeSlot(used []uint) uint {
	slot := uint(lastSlot)
	for slot > 0 && slices.Contains(used, slot) {
		slot--
	}
	return slot
}

// freeCCW returns the address that libvirt gives to the next device.
func (m Machine) freeCCW() CCWAddress {
	a := CCWAddress{CSSID: virtualCSS}
	for slices.Contains(m.CCW, a) {
		a.DevNo++
	}
	return a
}
