package blockgraph

import (
	"slices"
	"strings"
)

// Bus is target@bus.
type Bus string

// The buses. Virtio, SCSI and USB support hot plug; IDE, SATA and FDC disks can only be
// rendered as arguments for a VM that is not running yet.
const (
	BusVirtio Bus = "virtio"
	BusSCSI   Bus = "scsi"
	BusUSB    Bus = "usb"
	BusIDE    Bus = "ide"
	BusSATA   Bus = "sata"
	BusFDC    Bus = "fdc"
)

// Hotpluggable reports whether a running QEMU accepts a device on this bus.
func (b Bus) Hotpluggable() bool { return b == BusVirtio || b == BusSCSI || b == BusUSB }

// DeviceKind is disk@device.
type DeviceKind string

// The kinds of devices.
const (
	DeviceDisk   DeviceKind = "disk"
	DeviceLUN    DeviceKind = "lun" // a disk whose SCSI commands reach the host's device
	DeviceCDROM  DeviceKind = "cdrom"
	DeviceFloppy DeviceKind = "floppy"
)

// Removable reports whether the drive has a removable medium, and so can be empty.
func (k DeviceKind) Removable() bool { return k == DeviceCDROM || k == DeviceFloppy }

// Model is disk@model: the virtio standard that the device implements.
type Model string

// The models; "" and ModelVirtio leave the choice to QEMU.
const (
	ModelVirtio          Model = "virtio"
	ModelTransitional    Model = "virtio-transitional"
	ModelNonTransitional Model = "virtio-non-transitional"
)

// Switch is an attribute that is on, off, or not given: "" leaves the choice
// to QEMU.
type Switch string

// The positions of a Switch.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// Driver is the tuning in <driver>, in libvirt's words. "" and 0 are the defaults.
type Driver struct {
	Cache           string // none, writethrough, writeback, directsync, unsafe
	IO              string // native, threads, io_uring
	Discard         string // unmap, ignore
	DetectZeroes    string // off, on, unmap
	ErrorPolicy     string // stop, report, ignore, enospace
	ReadErrorPolicy string // stop, report, ignore

	// The rest is for virtio disks only.

	Queues    uint             // virtqueues
	QueueSize uint             // of each, in descriptors
	IOThread  uint             // the number of the VM's I/O thread that serves the disk
	IOThreads []IOThreadQueues // the I/O threads that share the disk's queues

	IOEventFD, EventIdx, IOMMU, ATS, Packed, PagePerVQ Switch
}

// IOThreadQueues is <driver><iothreads><iothread>: a thread and its queues; without
// queues, QEMU distributes them.
type IOThreadQueues struct {
	ID     uint
	Queues []uint
}

// Tuning holds the properties of the disk that the guest sees.
type Tuning struct {
	Vendor, Product   string // <vendor>, <product>: SCSI inquiry data; the product is the model of an ATA disk
	RotationRate      uint   // target@rotation_rate: 1 for a disk that does not rotate, else rotations per minute
	Removable, DPOFUA Switch // target@removable, target@dpofua: SCSI "disable page out" and "force unit access"
	BlockIO           BlockIO
	Geometry          Geometry
	ACPIIndex         uint   // acpi@index, by which a guest may name a PCI device
	LoadParm          string // boot@loadparm, for the boot loader of a mainframe
}

// BlockIO is <blockio>: sizes in bytes, 0 for QEMU's default.
type BlockIO struct {
	Logical, Physical, DiscardGranularity uint
}

// Geometry is <geometry>, for old guests. Translation is that of the BIOS: auto, none or lba.
type Geometry struct {
	Cylinders, Heads, Sectors uint
	Translation               string
}

// Address is the location of the device in the VM. Exactly one field is set.
type Address struct {
	PCI   *PCIAddress
	Drive *DriveAddress
	USB   *USBAddress
	CCW   *CCWAddress
	MMIO  *MMIOAddress
}

// PCIAddress is <address type='pci'>. Bus is the index of a libvirt controller, not the
// number that the guest sees. Multifunction allows other functions in the same slot.
type PCIAddress struct {
	Domain, Bus, Slot, Function uint
	Multifunction               Switch
}

// DriveAddress is <address type='drive'>.
type DriveAddress struct {
	Controller, Bus, Target, Unit uint
}

// USBAddress is <address type='usb'>: Port is dotted, such as "1.2".
type USBAddress struct {
	Bus  uint
	Port string
}

// CCWAddress is <address type='ccw'>: a number on the channel subsystem of a mainframe.
type CCWAddress struct {
	CSSID, SSID, DevNo uint
}

// MMIOAddress is <address type='virtio-mmio'>: QEMU picks one of the machine's transports.
type MMIOAddress struct{}

// kind is address@type.
func (a *Address) kind() string {
	switch {
	case a.PCI != nil:
		return "pci"
	case a.Drive != nil:
		return "drive"
	case a.USB != nil:
		return "usb"
	case a.CCW != nil:
		return "ccw"
	case a.MMIO != nil:
		return "virtio-mmio"
	}
	return ""
}

// errorPolicies translates error_policy and rerror_policy. libvirt's "enospace" is QEMU's
// "enospc", which only exists for writes; reads without a policy of their own get that of
// writes.
func (d *Disk) errorPolicies() (werror, rerror string) {
	werror, rerror = d.Driver.ErrorPolicy, d.Driver.ReadErrorPolicy
	if rerror == "" && werror != "enospace" {
		rerror = werror
	}
	if werror == "enospace" {
		werror = "enospc"
	}
	return werror, rerror
}

// escapeSerial writes a backslash before every space, as libvirt does. The guest sees the
// backslashes, but a VM that moves between libvirt and luksplug must see the same serial.
func escapeSerial(s string) string { return strings.ReplaceAll(s, " ", `\ `) }

// cacheMode returns the disk's cache mode: a disk that other VMs also write is not cached
// unless the user requests it.
func (d *Disk) cacheMode() string {
	if d.Driver.Cache == "" && d.Shareable && !d.ReadOnly {
		return "none"
	}
	return d.Driver.Cache
}

// cacheModes maps libvirt's names (formatdomain.html, driver@cache) to the options of a block
// node, and to whether the device shows the guest a write cache. libvirt sets them on every
// node of the payload.
var cacheModes = map[string]struct {
	direct, noFlush bool
	writeCache      string
}{
	"none":         {direct: true, writeCache: "on"},
	"writethrough": {writeCache: "off"},
	"writeback":    {writeCache: "on"},
	"directsync":   {direct: true, writeCache: "off"},
	"unsafe":       {noFlush: true, writeCache: "on"},
}

// driveAddress returns the address of a disk on a bus of drives: its own, or the one that
// libvirt derives from the target's letters (virDomainDiskDefAssignAddress).
func (d *Disk) driveAddress() DriveAddress {
	if d.Address != nil && d.Address.Drive != nil {
		return *d.Address.Drive
	}
	_, index, _ := ParseTarget(d.Target) // validated before
	return DefaultDrive(d.Bus, uint(index))
}

// DefaultDrive returns the address that libvirt derives from a disk's target on a
// bus of drives (IDE, SATA, SCSI or fdc); index is that of [ParseTarget].
func DefaultDrive(bus Bus, index uint) DriveAddress {
	switch bus {
	case BusIDE:
		return DriveAddress{Controller: index / 4, Bus: index % 4 / 2, Unit: index % 2}
	case BusSATA:
		return DriveAddress{Controller: index / 6, Unit: index % 6}
	case BusSCSI:
		return DriveAddress{Controller: index / 7, Unit: index % 7}
	default:
		return DriveAddress{Controller: index / 2, Unit: index % 2}
	}
}

// CheckAddress reports whether a disk on the bus can have an <address> of this
// type, such as "pci". The error is an [*InvalidError].
func (b Bus) CheckAddress(kind string) error {
	const element = "disk/address@type"
	switch b {
	case BusVirtio:
		if !slices.Contains([]string{"pci", "ccw", "virtio-mmio"}, kind) {
			return invalid(element, "a virtio disk cannot have an address of type '"+kind+"': use type='pci', or 'ccw' on a mainframe")
		}
	case BusUSB:
		if kind != "usb" {
			return invalid(element, "unexpected address type '"+kind+"' for usb disk: use type='usb'")
		}
	default:
		if kind != "drive" {
			return invalid(element, "Invalid address type '"+kind+"' for a disk with the bus type '"+string(b)+"': use type='drive'")
		}
	}
	return nil
}

// virtualCSS is the one channel subsystem in which QEMU has virtual devices.
const virtualCSS = 0xfe
