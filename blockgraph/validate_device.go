package blockgraph

import (
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// validateFrontend checks that the bus and the device go together.
func (d *Disk) validateFrontend() error {
	if !slices.Contains([]Bus{BusVirtio, BusSCSI, BusUSB, BusIDE, BusSATA, BusFDC}, d.Bus) {
		return &UnsupportedError{Element: "disk/target@bus", Reason: "the bus " + strconv.Quote(message.Shorten(string(d.Bus))) + " is not supported: use virtio, scsi or usb"}
	}
	if !slices.Contains([]DeviceKind{DeviceDisk, DeviceLUN, DeviceCDROM, DeviceFloppy}, d.Device) {
		return &UnsupportedError{Element: "disk@device", Reason: "the device " + strconv.Quote(message.Shorten(string(d.Device))) + " is not supported: use disk, lun, cdrom or floppy"}
	}
	if !slices.Contains([]Model{"", ModelVirtio, ModelTransitional, ModelNonTransitional}, d.Model) {
		return invalid("disk@model", "unknown model "+strconv.Quote(message.Shorten(string(d.Model)))+": use virtio, virtio-transitional or virtio-non-transitional")
	}
	if d.Model != "" && d.Bus != BusVirtio {
		return invalid("disk@model", "disk model '"+string(d.Model)+"' not supported for bus '"+string(d.Bus)+"'")
	}
	if (d.Device == DeviceFloppy) != (d.Bus == BusFDC) {
		return invalid("disk/target@bus", "a floppy drive belongs on the bus fdc, and nothing else does")
	}
	if d.Device == DeviceCDROM && !d.ReadOnly {
		return invalid("disk/readonly", "a cdrom is always read-only")
	}
	if d.Device == DeviceCDROM && d.Bus == BusVirtio {
		return invalid("disk/target@bus", "disk type of '"+d.Target+"' does not support ejectable media: use bus='scsi', 'usb', 'sata' or 'ide' for a cdrom")
	}
	if d.Empty && !d.Device.Removable() {
		return invalid("disk", "has no <source>: only a cdrom or floppy drive can be empty")
	}
	if d.Empty && d.Bus == BusUSB {
		return &UnsupportedError{Element: "disk/source", Reason: "a 'usb' disk must not be empty: QEMU's USB storage has its medium from the start"}
	}
	if d.ReadOnly && d.Device == DeviceDisk && (d.Bus == BusIDE || d.Bus == BusSATA) {
		return &UnsupportedError{Element: "disk/readonly", Reason: "readonly " + string(d.Bus) + " disks are not supported by QEMU: use another bus, or device='cdrom'"}
	}
	if d.DiscardNoUnref == On && d.ReadOnly {
		return invalid("disk/driver@discard_no_unref", "'discard_no_unref' is not compatible with read-only disk")
	}
	if d.CopyOnRead && (d.ReadOnly || d.Device.Removable()) {
		return invalid("disk/driver@copy_on_read", "copy_on_read is not compatible with read-only disk '"+d.Target+"'")
	}
	if d.CopyOnRead && d.Device == DeviceLUN {
		return invalid("disk/driver@copy_on_read", "copy_on_read is not supported with lun disk '"+d.Target+"'")
	}
	return d.validateShareable()
}

// validateShareable refuses to share what QEMU keeps state of in memory: two
// VMs that both write a qcow2 image destroy it.
func (d *Disk) validateShareable() error {
	if d.Shareable && !d.ReadOnly && !d.Empty && (d.Image.Format != FormatRaw || d.Image.Encryption != nil) {
		return invalid("disk/shareable", "shared access for disk '"+d.Target+"' requires use of supported storage format: raw without encryption, or <readonly/>")
	}
	return nil
}

// validatePassThrough checks device='lun', whose SCSI commands go to the
// host's device as they are.
func (d *Disk) validatePassThrough() error {
	if d.RawIO && d.Device != DeviceLUN {
		return invalid("disk@rawio", "rawio can be used only with device='lun'")
	}
	if d.Device != DeviceLUN {
		return nil
	}
	_, iscsi := d.Image.Source.Network.(*ISCSI)
	switch {
	case d.Image.Source.Kind == SourceNetwork && !iscsi:
		return invalid("disk/source@protocol", "disk device='lun' is not supported for this protocol: it is for iscsi")
	case !slices.Contains([]SourceKind{SourceBlock, SourceNetwork, SourceVolume}, d.Image.Source.Kind):
		return invalid("disk@type", "disk device='lun' is only valid for block type disk source")
	case d.Image.Format != FormatRaw:
		return invalid("disk/driver@type", "disk device 'lun' must use 'raw' format")
	case d.Image.Encryption != nil:
		return invalid("disk/source/encryption", "disk device 'lun' doesn't support encryption")
	case d.Bus == BusVirtio:
		return &UnsupportedError{Element: "disk@device", Reason: "QEMU's virtio disk no longer passes SCSI commands on: use bus='scsi' for device='lun'"}
	case d.Bus != BusSCSI:
		return invalid("disk@device", "disk device='lun' is not supported for bus='"+string(d.Bus)+"': use bus='scsi'")
	case d.Serial != "":
		return invalid("disk/serial", "scsi-block 'lun' devices do not support the serial property: the guest sees the real one")
	case d.WWN != 0:
		return invalid("disk/wwn", "Setting wwn is not supported for lun device: the guest sees the real one")
	case d.Tuning.Vendor != "":
		return invalid("disk/vendor", "Setting vendor or product is not supported for lun device: the guest sees the real ones")
	case d.Tuning.Product != "":
		return invalid("disk/product", "Setting vendor or product is not supported for lun device: the guest sees the real ones")
	}
	return nil
}

func (d *Disk) validateDriver() error {
	words := []struct {
		attr, value string
		allowed     []string
	}{
		{"cache", d.Driver.Cache, []string{"none", "writethrough", "writeback", "directsync", "unsafe"}},
		{"io", d.Driver.IO, []string{"native", "threads", "io_uring"}},
		{"discard", d.Driver.Discard, []string{"unmap", "ignore"}},
		{"detect_zeroes", d.Driver.DetectZeroes, []string{"off", "on", "unmap"}},
		{"error_policy", d.Driver.ErrorPolicy, []string{"stop", "report", "ignore", "enospace"}},
		{"rerror_policy", d.Driver.ReadErrorPolicy, []string{"stop", "report", "ignore"}},
	}
	for _, w := range words {
		if w.value != "" && !slices.Contains(w.allowed, w.value) {
			return invalid("disk/driver@"+w.attr, "unknown value "+strconv.Quote(message.Shorten(w.value))+": use "+strings.Join(w.allowed, ", "))
		}
	}
	// One that is shared gets the cache mode none, and has to say so nevertheless.
	if cache := d.Driver.Cache; d.Driver.IO == "native" && cache != "none" && cache != "directsync" {
		return invalid("disk/driver@io", "native I/O needs either no disk cache or directsync cache mode, QEMU will fallback to aio=threads: add cache='none'")
	}
	return nil
}

// validateQueues checks what only a virtio disk has: its queues, and the
// threads that serve them.
func (d *Disk) validateQueues() error {
	v := d.Driver
	for _, p := range []struct {
		attr  string
		given bool
	}{
		{"queues", v.Queues != 0}, {"queue_size", v.QueueSize != 0}, {"event_idx", v.EventIdx != ""}, {"ioeventfd", v.IOEventFD != ""},
		{"iommu", v.IOMMU != ""}, {"ats", v.ATS != ""}, {"packed", v.Packed != ""}, {"page_per_vq", v.PagePerVQ != ""},
	} {
		if p.given && d.Bus != BusVirtio {
			return invalid("disk/driver@"+p.attr, "the "+p.attr+" driver option is only supported for virtio disks")
		}
	}
	threads := v.IOThread != 0 || len(v.IOThreads) > 0
	switch {
	case threads && d.Bus != BusVirtio:
		return invalid("disk/driver@iothread", "IOThreads not available for bus "+string(d.Bus)+" target "+d.Target+": a SCSI disk has those of its controller")
	case v.IOThread != 0 && len(v.IOThreads) > 0:
		return invalid("disk/driver@iothread", "the disk driver 'iothread' attribute can't be used together with the 'iothreads' subelement")
	}
	return v.validateMapping()
}

// validateMapping checks which thread serves which queue: each queue has one.
func (v Driver) validateMapping() error {
	const element = "disk/driver/iothreads/iothread"
	bad := func(attr, reason string) error { return invalid(element+attr, reason) }
	served := map[uint]bool{}
	for i, t := range v.IOThreads {
		name := strconv.FormatUint(uint64(t.ID), 10)
		switch {
		case t.ID == 0:
			return bad("@id", "is missing or 0: I/O threads are counted from 1")
		case slices.ContainsFunc(v.IOThreads[:i], func(o IOThreadQueues) bool { return o.ID == t.ID }):
			return bad("@id", "duplicate mapping for iothread '"+name+"'")
		case (len(t.Queues) > 0) != (len(v.IOThreads[0].Queues) > 0):
			return bad("", "the iothread to queue mapping must be provided for all iothreads or for none")
		case len(t.Queues) > 0 && v.Queues == 0:
			return bad("", "the count of queues must be configured for an explicit iothread to queue mapping: add queues= to <driver>")
		}
		for _, q := range t.Queues {
			queue := strconv.FormatUint(uint64(q), 10)
			if q >= v.Queues {
				return bad("/queue@id", "iothread queue '"+queue+"' mapping out of range: the disk has "+strconv.FormatUint(uint64(v.Queues), 10))
			}
			if served[q] {
				return bad("/queue@id", "iothread queue '"+queue+"' is already assigned")
			}
			served[q] = true
		}
	}
	for q := range v.Queues {
		if len(served) > 0 && !served[q] {
			return bad("", "missing iothread mapping for queue '"+strconv.FormatUint(uint64(q), 10)+"'")
		}
	}
	return nil
}

func (d *Disk) validateIdentity() error {
	for _, c := range d.Serial {
		if !alphanumeric(c) && !strings.ContainsRune("_-.+ ", c) {
			return invalid("disk/serial", "the serial contains unsafe characters, the character "+quoteRune(c)+" is not allowed: use letters, digits, spaces and _ - . +")
		}
	}
	if d.WWN != 0 && d.Bus != BusIDE && d.Bus != BusSCSI {
		return invalid("disk/wwn", "only ide and scsi disks support a wwn")
	}
	for _, c := range d.Alias {
		if !alphanumeric(c) && c != '-' && c != '_' {
			return invalid("disk/alias@name", "the character "+quoteRune(c)+" is not allowed: use letters, digits, - and _")
		}
	}
	if d.Alias != "" && !strings.HasPrefix(d.Alias, UserAlias) {
		return invalid("disk/alias@name", "a user's alias begins with "+UserAlias)
	}
	return nil
}

// validateTuning checks what the guest is shown of the disk against what its
// bus has words for.
func (d *Disk) validateTuning() error {
	t, ata := d.Tuning, d.Bus == BusIDE || d.Bus == BusSATA
	longest := 16
	if ata {
		longest = 40
	}
	switch {
	case t.Vendor != "" && d.Bus != BusSCSI:
		return invalid("disk/vendor", "only scsi disks support a vendor")
	case t.Product != "" && d.Bus != BusSCSI && !ata:
		return invalid("disk/product", "only ide, sata and scsi disks support a product")
	case !printableText(t.Vendor):
		return invalid("disk/vendor", "disk vendor is not a printable string")
	case !printableText(t.Product):
		return invalid("disk/product", "disk product is not a printable string")
	case len(t.Vendor) > 8:
		return invalid("disk/vendor", "disk vendor is more than 8 characters")
	case len(t.Product) > longest:
		return invalid("disk/product", "disk product is more than "+strconv.Itoa(longest)+" characters")
	case t.RotationRate != 0 && d.Bus != BusSCSI && !ata:
		return invalid("disk/target@rotation_rate", "a rotation rate is only valid for the scsi, ide and sata bus")
	case t.RotationRate != 0 && d.Device != DeviceDisk:
		return invalid("disk/target@rotation_rate", "a rotation rate is only valid for a disk device")
	case t.RotationRate > 0xffff:
		return invalid("disk/target@rotation_rate", "QEMU knows rates up to 65535")
	case t.Removable != "" && d.Bus != BusUSB && (d.Bus != BusSCSI || d.Device != DeviceDisk):
		return invalid("disk/target@removable", "removable is only valid for usb or scsi disks")
	case t.DPOFUA != "" && (d.Bus != BusSCSI || d.Device == DeviceCDROM):
		return invalid("disk/target@dpofua", "dpofua is only valid for scsi disks")
	case t.ACPIIndex != 0 && d.Bus != BusVirtio:
		return invalid("disk/acpi@index", "an ACPI index is only supported for PCI devices")
	}
	for _, p := range []struct {
		element string
		given   bool
	}{
		{"disk/serial", d.Serial != ""}, {"disk/driver@error_policy", d.Driver.ErrorPolicy != ""}, {"disk/driver@rerror_policy", d.Driver.ReadErrorPolicy != ""},
	} {
		if p.given && d.Bus == BusFDC { // libvirt passes them on, and QEMU refuses them
			return &UnsupportedError{Element: p.element, Reason: "QEMU's floppy drive does not have this setting: remove it"}
		}
	}
	return d.validateGeometry()
}

func (d *Disk) validateGeometry() error {
	g := d.Tuning.Geometry
	switch {
	case g.Translation != "" && !slices.Contains([]string{"auto", "none", "lba"}, g.Translation):
		return invalid("disk/geometry@trans", "unknown value "+strconv.Quote(message.Shorten(g.Translation))+": use auto, none, lba")
	case g != Geometry{} && (d.Bus == BusUSB || d.Device != DeviceDisk):
		return invalid("disk/geometry", "CHS geometry can not be set for '"+string(d.Bus)+"' bus and device='"+string(d.Device)+"'")
	case g.Translation != "" && d.Bus != BusIDE:
		return invalid("disk/geometry@trans", "CHS translation mode can only be set for 'ide' bus not '"+string(d.Bus)+"'")
	}
	return nil
}

// validateThrottling checks limits: those of the disk, and the use of the VM's.
func (d *Disk) validateThrottling() error {
	if d.IOTune != nil {
		if err := d.IOTune.validate("disk/iotune"); err != nil {
			return err
		}
	}
	switch {
	case len(d.ThrottleFilters) == 0:
	case d.IOTune != nil:
		return invalid("disk/throttlefilters", "block 'throttlefilters' can't be used together with 'iotune' for disk '"+d.Target+"'")
	case d.Device == DeviceCDROM:
		return &UnsupportedError{Element: "disk/throttlefilters", Reason: "a cdrom device with throttle filters isn't supported"}
	case d.Empty:
		return invalid("disk/throttlefilters", "an empty drive has nothing to throttle")
	}
	return nil
}
