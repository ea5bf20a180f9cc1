package blockgraph

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// validateFrontend checks that the bus supports the device.
func (d *Disk) validateFrontend() error {
	switch {
	case !slices.Contains([]Bus{BusVirtio, BusSCSI, BusUSB, BusIDE, BusSATA, BusFDC}, d.Bus):
		return unsupported("disk/target@bus", "the bus "+quoted(d.Bus)+" is not supported: use virtio, scsi or usb")
	case !slices.Contains([]DeviceKind{DeviceDisk, DeviceLUN, DeviceCDROM, DeviceFloppy}, d.Device):
		return unsupported("disk@device", "the device "+quoted(d.Device)+" is not supported: use disk, lun, cdrom or floppy")
	case !slices.Contains([]Model{"", ModelVirtio, ModelTransitional, ModelNonTransitional}, d.Model):
		return invalid("disk@model", "unknown model "+quoted(d.Model)+": use virtio, virtio-transitional or virtio-non-transitional")
	}
	ata := d.Bus == BusIDE || d.Bus == BusSATA
	// QEMU keeps the state of all but plain raw images in memory: two VMs that both write one destroy it.
	stateful := !d.Empty && (d.Image.Format != FormatRaw || d.Image.Encryption != nil)
	return check([]rule{
		{d.Model != "" && d.Bus != BusVirtio, invalid, "disk@model", "disk model '" + string(d.Model) + "' not supported for bus '" + string(d.Bus) + "'"},
		{(d.Device == DeviceFloppy) != (d.Bus == BusFDC), invalid, "disk/target@bus", "a floppy drive is only supported on the bus fdc, which supports nothing else"},
		{d.Device == DeviceCDROM && !d.ReadOnly, invalid, "disk/readonly", "a cdrom is always read-only"},
		{d.Device == DeviceCDROM && d.Bus == BusVirtio, invalid, "disk/target@bus",
			"disk type of '" + d.Target + "' does not support ejectable media: use bus='scsi', 'usb', 'sata' or 'ide' for a cdrom"},
		{d.Empty && !d.Device.Removable(), invalid, "disk", "has no <source>: only a cdrom or floppy drive can be empty"},
		{d.Empty && d.Bus == BusUSB, unsupported, "disk/source", "a 'usb' disk must not be empty: QEMU's USB storage has its medium from the start"},
		{d.ReadOnly && d.Device == DeviceDisk && ata, unsupported, "disk/readonly",
			"readonly " + string(d.Bus) + " disks are not supported by QEMU: use another bus, or device='cdrom'"},
		{d.DiscardNoUnref == On && d.ReadOnly, invalid, "disk/driver@discard_no_unref", "'discard_no_unref' is not compatible with read-only disk"},
		{d.CopyOnRead && (d.ReadOnly || d.Device.Removable()), invalid, "disk/driver@copy_on_read",
			"copy_on_read is not compatible with read-only disk '" + d.Target + "'"},
		{d.CopyOnRead && d.Device == DeviceLUN, invalid, "disk/driver@copy_on_read", "copy_on_read is not supported with lun disk '" + d.Target + "'"},
		{d.Shareable && !d.ReadOnly && stateful, invalid, "disk/shareable",
			"shared access for disk '" + d.Target + "' requires use of supported storage format: raw without encryption, or <readonly/>"},
	})
}

// validatePassThrough checks device='lun', whose SCSI commands reach the host's device unchanged.
func (d *Disk) validatePassThrough() error {
	if d.Device != DeviceLUN {
		return check([]rule{{d.RawIO, invalid, "disk@rawio", "rawio can be used only with device='lun'"}})
	}
	kind := d.Image.Source.Kind
	_, iscsi := d.Image.Source.Network.(*ISCSI)
	return check([]rule{
		{kind == SourceNetwork && !iscsi, invalid, "disk/source@protocol", "disk device='lun' is not supported for this protocol: use iscsi"},
		{!slices.Contains([]SourceKind{SourceBlock, SourceNetwork, SourceVolume}, kind), invalid, "disk@type",
			"disk device='lun' is only valid for block type disk source"},
		{d.Image.Format != FormatRaw, invalid, "disk/driver@type", "disk device 'lun' must use 'raw' format"},
		{d.Image.Encryption != nil, invalid, "disk/source/encryption", "disk device 'lun' doesn't support encryption"},
		{d.Bus == BusVirtio, unsupported, "disk@device", "QEMU's virtio disk no longer passes SCSI commands on: use bus='scsi' for device='lun'"},
		{d.Bus != BusSCSI, invalid, "disk@device", "disk device='lun' is not supported for bus='" + string(d.Bus) + "': use bus='scsi'"},
		{d.Serial != "", invalid, "disk/serial", "scsi-block 'lun' devices do not support the serial property: the guest sees the real one"},
		{d.WWN != 0, invalid, "disk/wwn", "Setting wwn is not supported for lun device: the guest sees the real one"},
		{d.Tuning.Vendor != "", invalid, "disk/vendor", "Setting vendor or product is not supported for lun device: the guest sees the real ones"},
		{d.Tuning.Product != "", invalid, "disk/product", "Setting vendor or product is not supported for lun device: the guest sees the real ones"},
	})
}

// validateDriver checks the keywords in <driver> and <geometry>.
func (d *Disk) validateDriver() error {
	for _, w := range []struct {
		element, value string
		allowed        []string
	}{
		{"driver@cache", d.Driver.Cache, []string{"none", "writethrough", "writeback", "directsync", "unsafe"}},
		{"driver@io", d.Driver.IO, []string{"native", "threads", "io_uring"}},
		{"driver@discard", d.Driver.Discard, []string{"unmap", "ignore"}},
		{"driver@detect_zeroes", d.Driver.DetectZeroes, []string{"off", "on", "unmap"}},
		{"driver@error_policy", d.Driver.ErrorPolicy, []string{"stop", "report", "ignore", "enospace"}},
		{"driver@rerror_policy", d.Driver.ReadErrorPolicy, []string{"stop", "report", "ignore"}},
		{"geometry@trans", d.Tuning.Geometry.Translation, []string{"auto", "none", "lba"}},
	} {
		if w.value != "" && !slices.Contains(w.allowed, w.value) {
			return invalid("disk/"+w.element, "unknown value "+quoted(w.value)+": use "+strings.Join(w.allowed, ", "))
		}
	}
	// A shared disk gets the cache mode none, but must still name it here.
	cache := d.Driver.Cache
	return check([]rule{{d.Driver.IO == "native" && cache != "none" && cache != "directsync", invalid, "disk/driver@io",
		"native I/O needs either no disk cache or directsync cache mode, QEMU will fallback to aio=threads: add cache='none'"}})
}

// validateQueues checks the queues of a virtio disk and the threads that serve them.
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
	threads := len(v.IOThreads) > 0
	if err := check([]rule{
		{(v.IOThread != 0 || threads) && d.Bus != BusVirtio, invalid, "disk/driver@iothread",
			"IOThreads not available for bus " + string(d.Bus) + " target " + d.Target + ": a SCSI disk uses those of its controller"},
		{v.IOThread != 0 && threads, invalid, "disk/driver@iothread", "the disk driver 'iothread' attribute can't be used together with the 'iothreads' subelement"},
	}); err != nil {
		return err
	}
	return v.validateMapping()
}

// validateMapping checks that each queue is served by exactly one thread.
func (v Driver) validateMapping() error {
	const element = "disk/driver/iothreads/iothread"
	served := map[uint]bool{}
	for i, t := range v.IOThreads {
		if err := check([]rule{
			{t.ID == 0, invalid, element + "@id", "is missing or 0: I/O threads are counted from 1"},
			{slices.ContainsFunc(v.IOThreads[:i], func(o IOThreadQueues) bool { return o.ID == t.ID }), invalid, element + "@id",
				fmt.Sprintf("duplicate mapping for iothread '%d'", t.ID)},
			{(len(t.Queues) > 0) != (len(v.IOThreads[0].Queues) > 0), invalid, element,
				"the iothread to queue mapping must be provided for all iothreads or for none"},
			{len(t.Queues) > 0 && v.Queues == 0, invalid, element,
				"the count of queues must be configured for an explicit iothread to queue mapping: add queues= to <driver>"},
		}); err != nil {
			return err
		}
		for _, q := range t.Queues {
			if q >= v.Queues {
				return invalid(element+"/queue@id", fmt.Sprintf("iothread queue '%d' mapping out of range: the disk has %d", q, v.Queues))
			}
			if served[q] {
				return invalid(element+"/queue@id", fmt.Sprintf("iothread queue '%d' is already assigned", q))
			}
			served[q] = true
		}
	}
	for q := range v.Queues {
		if len(served) > 0 && !served[q] {
			return invalid(element, fmt.Sprintf("missing iothread mapping for queue '%d'", q))
		}
	}
	return nil
}

func (d *Disk) validateIdentity() error {
	if c := strange(d.Serial, "_-.+ "); c != "" {
		return invalid("disk/serial", "the serial contains unsafe characters, the character "+c+" is not allowed: use letters, digits, spaces and _ - . +")
	}
	if c := strange(d.Alias, "-_."); c != "" {
		return invalid("disk/alias@name", "the character "+c+" is not allowed: use letters, digits, - _ and .")
	}
	return check([]rule{
		{d.WWN != 0 && d.Bus != BusIDE && d.Bus != BusSCSI, invalid, "disk/wwn", "only ide and scsi disks support a wwn"},
		{d.Alias != "" && !strings.HasPrefix(d.Alias, UserAlias), invalid, "disk/alias@name", "a user's alias begins with " + UserAlias},
	})
}

// validateTuning checks that the bus supports the properties that the guest sees.
func (d *Disk) validateTuning() error {
	t, g, ata := d.Tuning, d.Tuning.Geometry, d.Bus == BusIDE || d.Bus == BusSATA
	longest := 16
	if ata {
		longest = 40
	}
	const floppy = "QEMU's floppy drive does not have this setting: remove it" // libvirt passes it on, and QEMU refuses it
	return check([]rule{
		{t.Vendor != "" && d.Bus != BusSCSI, invalid, "disk/vendor", "only scsi disks support a vendor"},
		{t.Product != "" && d.Bus != BusSCSI && !ata, invalid, "disk/product", "only ide, sata and scsi disks support a product"},
		{!printableText(t.Vendor), invalid, "disk/vendor", "disk vendor is not a printable string"},
		{!printableText(t.Product), invalid, "disk/product", "disk product is not a printable string"},
		{len(t.Vendor) > 8, invalid, "disk/vendor", "disk vendor is more than 8 characters"},
		{len(t.Product) > longest, invalid, "disk/product", "disk product is more than " + strconv.Itoa(longest) + " characters"},
		{t.RotationRate != 0 && d.Bus != BusSCSI && !ata, invalid, "disk/target@rotation_rate", "a rotation rate is only valid for the scsi, ide and sata bus"},
		{t.RotationRate != 0 && d.Device != DeviceDisk, invalid, "disk/target@rotation_rate", "a rotation rate is only valid for a disk device"},
		{t.RotationRate > 0xffff, invalid, "disk/target@rotation_rate", "QEMU supports rates up to 65535"},
		{t.Removable != "" && d.Bus != BusUSB && (d.Bus != BusSCSI || d.Device != DeviceDisk), invalid, "disk/target@removable",
			"removable is only valid for usb or scsi disks"},
		{t.DPOFUA != "" && (d.Bus != BusSCSI || d.Device == DeviceCDROM), invalid, "disk/target@dpofua", "dpofua is only valid for scsi disks"},
		{t.ACPIIndex != 0 && d.Bus != BusVirtio, invalid, "disk/acpi@index", "an ACPI index is only supported for PCI devices"},
		{d.Serial != "" && d.Bus == BusFDC, unsupported, "disk/serial", floppy},
		{d.Driver.ErrorPolicy != "" && d.Bus == BusFDC, unsupported, "disk/driver@error_policy", floppy},
		{d.Driver.ReadErrorPolicy != "" && d.Bus == BusFDC, unsupported, "disk/driver@rerror_policy", floppy},
		{g != Geometry{} && (d.Bus == BusUSB || d.Device != DeviceDisk), invalid, "disk/geometry",
			"CHS geometry can not be set for '" + string(d.Bus) + "' bus and device='" + string(d.Device) + "'"},
		{g.Translation != "" && d.Bus != BusIDE, invalid, "disk/geometry@trans", "CHS translation mode can only be set for 'ide' bus not '" + string(d.Bus) + "'"},
	})
}

// validateThrottling checks the limits of the disk and its use of the VM's throttle groups.
func (d *Disk) validateThrottling() error {
	if d.IOTune != nil {
		if err := d.IOTune.validate("disk/iotune"); err != nil {
			return err
		}
	}
	if len(d.ThrottleFilters) == 0 {
		return nil
	}
	return check([]rule{
		{d.IOTune != nil, invalid, "disk/throttlefilters", "block 'throttlefilters' can't be used together with 'iotune' for disk '" + d.Target + "'"},
		{d.Device == DeviceCDROM, unsupported, "disk/throttlefilters", "a cdrom device with throttle filters isn't supported"},
		{d.Empty, invalid, "disk/throttlefilters", "an empty drive has nothing to throttle"},
	})
}
