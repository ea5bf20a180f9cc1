package blockgraph

// Disk is a parsed and validated <disk>: what the user asked for, before it is translated
// for QEMU. Package diskxml makes one from XML; a program may also fill one in and call
// [Disk.Validate].
type Disk struct {
	Target     string // target@dev, such as "vdb": the disk and everything that is made for it in QEMU is named after it
	Bus        Bus
	Device     DeviceKind
	Model      Model
	Empty      bool  // a drive without a medium: Image is not used
	Image      Image // the top layer, the one whose bytes the guest sees
	CopyOnRead bool  // driver@copy_on_read: what is read from the layers below is written into the top one
	// DiscardNoUnref is driver@discard_no_unref: a hole in a qcow2 image keeps its place in the file.
	DiscardNoUnref Switch
	ReadOnly       bool // <readonly/>; a CD-ROM is always read-only
	// Transient is <transient/>: writes go to an overlay that is discarded with the disk; the image is only read.
	Transient bool
	Shareable bool     // <shareable/>: other VMs may have the disk too
	RawIO     bool     // disk@rawio: a LUN accepts SCSI commands that need CAP_SYS_RAWIO
	Serial    string   // <serial>, "" for none
	WWN       uint64   // <wwn>, 0 for none; ide and scsi only
	BootOrder uint     // boot@order, 1 for the first, 0 for none
	Alias     string   // a user alias ("ua-..."), which becomes the device id; "" for none
	Driver    Driver   // the tuning of <driver>
	Tuning    Tuning   // what the guest is shown of the disk
	IOTune    *IOTune  // <iotune>, nil for no limits
	Address   *Address // <address>, nil where the planner chooses
	// ThrottleFilters are the throttle groups of the VM that every request passes, the first one last.
	ThrottleFilters []string
	// Ignored names what of the XML has no effect, a sentence each. [Disk.Warnings] repeats it.
	Ignored []string
}
