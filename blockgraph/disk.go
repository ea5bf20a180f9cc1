package blockgraph

// Disk is a parsed and validated <disk>: what the user asked for, before it is
// decided how QEMU is told. Package diskxml makes one from XML; a program may also
// fill one in and call [Disk.Validate].
type Disk struct {
	// Target is target@dev, such as "vdb": it names the disk, and everything
	// that is made in QEMU for it.
	Target string
	// Bus is where the device goes.
	Bus Bus
	// Device is what the guest sees: a disk, a CD-ROM drive or a floppy drive.
	Device DeviceKind
	// Model is which virtio standard the device speaks.
	Model Model
	// Empty is a drive without a medium: Image is not used.
	Empty bool
	// Image is the top layer, the one whose bytes the guest sees.
	Image Image
	// CopyOnRead is driver@copy_on_read: what is read from the layers below is
	// written into the top one.
	CopyOnRead bool
	// DiscardNoUnref is driver@discard_no_unref: a hole in a qcow2 image keeps
	// its place in the file.
	DiscardNoUnref Switch
	// ReadOnly is <readonly/>; a CD-ROM is always read-only.
	ReadOnly bool
	// Transient is <transient/>: what the guest writes goes to an overlay that is
	// lost with the disk, and the image is only read.
	Transient bool
	// Shareable is <shareable/>: other VMs may have the disk, too.
	Shareable bool
	// RawIO is disk@rawio: a LUN takes SCSI commands that need CAP_SYS_RAWIO.
	RawIO bool
	// Serial is <serial>, "" for none.
	Serial string
	// WWN is <wwn>, 0 for none; ide and scsi only.
	WWN uint64
	// BootOrder is boot@order, 1 for the first, 0 for none.
	BootOrder uint
	// Alias is a user alias ("ua-..."), which becomes the device id; "" for none.
	Alias string
	// Driver holds the tuning of <driver>.
	Driver Driver
	// Tuning is what the guest is shown of the disk.
	Tuning Tuning
	// IOTune is <iotune>, nil for no limits.
	IOTune *IOTune
	// ThrottleFilters are the names of the VM's throttle groups that every
	// request passes, the first one last.
	ThrottleFilters []string
	// Address is <address>, nil where the planner shall choose.
	Address *Address
	// Ignored says what of the XML has no effect, a sentence each. [Disk.Warnings]
	// repeats it.
	Ignored []string
}
