package blockgraph

// Disk is a parsed and validated <disk>, before it is translated for QEMU. Package diskxml reads
// one from XML; a program may also fill in its fields and call [Disk.Validate].
type Disk struct {
	Target string // target@dev, such as "vdb": names the disk, and everything that is made for it in QEMU
	Bus    Bus
	Device DeviceKind
	Model  Model
	Empty  bool  // a drive without a medium: Image is not used
	Image  Image // the top layer, the one whose bytes the guest sees
	// FormatAssumed is true if the XML does not state the format of Image, driver@type: it is then libvirt's default, raw.
	FormatAssumed bool
	CopyOnRead    bool // driver@copy_on_read: data read from the layers below is copied into the top one
	// DiscardNoUnref is driver@discard_no_unref: a discarded qcow2 cluster stays allocated in the file.
	DiscardNoUnref Switch
	ReadOnly       bool // <readonly/>; a CD-ROM is always read-only
	// Transient is <transient/>: writes go to an overlay that is discarded with the disk; the image is only read.
	Transient bool
	Shareable bool     // <shareable/>: other VMs may use the disk too
	RawIO     bool     // disk@rawio: a LUN accepts SCSI commands that need CAP_SYS_RAWIO
	Serial    string   // <serial>, "" for none
	WWN       uint64   // <wwn>, 0 for none; ide and scsi only
	BootOrder uint     // boot@order, 1 for the first, 0 for none
	Alias     string   // a user alias ("ua-..."), which becomes the device id; "" for none
	Driver    Driver   // the tuning of <driver>
	Tuning    Tuning   // properties that the guest sees
	IOTune    *IOTune  // <iotune>, nil for no limits
	Address   *Address // <address>, nil where the planner chooses
	// ThrottleFilters are the VM's throttle groups that limit every request, the first one closest to the image.
	ThrottleFilters []string
	// Ignored describes the parts of the XML without effect, one sentence each. [Disk.Warnings] includes it.
	Ignored []string
}
