package blockgraph

// Bus is target@bus.
type Bus string

// The buses. Virtio, SCSI and USB take a hot plug; IDE, SATA and FDC disks can
// only be rendered as arguments for a VM that is not running yet.
const (
	BusVirtio Bus = "virtio"
	BusSCSI   Bus = "scsi"
	BusUSB    Bus = "usb"
	BusIDE    Bus = "ide"
	BusSATA   Bus = "sata"
	BusFDC    Bus = "fdc"
)

// Hotpluggable tells whether a running QEMU takes a device on this bus.
func (b Bus) Hotpluggable() bool { return b == BusVirtio || b == BusSCSI || b == BusUSB }

// DeviceKind is disk@device.
type DeviceKind string

// The kinds of devices that are supported.
const (
	DeviceDisk   DeviceKind = "disk"
	DeviceCDROM  DeviceKind = "cdrom"
	DeviceFloppy DeviceKind = "floppy"
)

// Driver is the tuning in <driver>. Every field is libvirt's own word, "" for
// the default.
type Driver struct {
	Cache           string // none, writethrough, writeback, directsync, unsafe
	IO              string // native, threads, io_uring
	Discard         string // unmap, ignore
	DetectZeroes    string // off, on, unmap
	ErrorPolicy     string // stop, report, ignore, enospace
	ReadErrorPolicy string // stop, report, ignore
}

// Address is where in the VM the device sits. Exactly one field is set.
type Address struct {
	PCI   *PCIAddress
	Drive *DriveAddress
	USB   *USBAddress
}

// PCIAddress is <address type='pci'>: Bus is the index of a libvirt
// controller, not a number that the guest gave.
type PCIAddress struct {
	Domain, Bus, Slot, Function uint
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
