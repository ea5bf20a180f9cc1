package blockgraph

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// device adds the frontend device, after the controller that it may need.
//
//	target@bus, disk@device, disk@model  -> driver
//	<driver> of a virtio disk            -> see virtioOptions
//	<address>, or what is free           -> bus, addr / channel, scsi-id, lun / unit / port / devno
//	acpi@index                           -> acpi-index
//	<shareable/>                         -> share-rw
//	alias (ua-...)                       -> id
//	boot@order, boot@loadparm            -> bootindex, loadparm
//	<blockio>                            -> logical_block_size, physical_block_size, discard_granularity
//	<wwn>, <serial>                      -> wwn, serial (scsi also device_id)
//	target@rotation_rate                 -> rotation_rate
//	<vendor>, <product>                  -> vendor, product (scsi), model (ide, sata)
//	target@removable, target@dpofua      -> removable, dpofua
//	driver@cache                         -> write-cache
//	<geometry>                           -> cyls, heads, secs, bios-chs-trans
//	driver@error_policy, @rerror_policy  -> werror, rerror
//
// The order of the members is libvirt's (qemuBuildDiskDeviceProps).
func (b *builder) device(in medium, m Machine) error {
	d := b.disk
	if err := d.checkAgainst(m); err != nil {
		return err
	}
	if m.Devices != nil {
		return b.sameDevices(in, m)
	}
	where, err := findPlace(d, m)
	if err != nil {
		return err
	}
	if where.warning != "" {
		b.graph.Warnings = append(b.graph.Warnings, where.warning)
	}
	if where.controller != nil {
		b.graph.Devices = append(b.graph.Devices, *where.controller)
	}
	driver, err := driverName(d, where.transport)
	if err != nil {
		return err
	}
	o, err := b.frontend(in, m, Object{{"driver", driver}}, where.members)
	if err != nil {
		return err
	}
	b.graph.Devices = append(b.graph.Devices, Device{ID: b.deviceID(), Role: RoleDevice, Options: o})
	return b.limits(in, m)
}

// frontend adds the members of the disk's own device to o; those of place are its location.
func (b *builder) frontend(in medium, m Machine, o, place Object) (Object, error) {
	d, id := b.disk, b.deviceID()
	if d.Bus == BusVirtio {
		addVirtio(&o, d.Driver)
	}
	o = append(o, place...)
	if d.Tuning.ACPIIndex > 0 {
		o.Add("acpi-index", int(d.Tuning.ACPIIndex))
	}
	if d.Bus == BusSCSI && d.Device != DeviceLUN {
		// The unit's identification (VPD page 0x83), without the backslashes of the serial.
		o.Add("device_id", cmp.Or(d.Serial, "drive-"+id))
	}
	if d.Shareable {
		o.Add("share-rw", true)
	}
	o.AddText("drive", in.node)
	o.AddText("chardev", in.chardev)
	o.Add("id", id)
	switch {
	case d.Bus != BusFDC:
		o.AddNumber("bootindex", d.BootOrder)
	case d.BootOrder > 0: // a floppy drive's boot index is a property of its controller
		drive := string("AB"[d.driveAddress().Unit&1])
		b.graph.Globals = append(b.graph.Globals, fmt.Sprintf("isa-fdc.bootindex%s=%d", drive, d.BootOrder))
	}
	if err := b.loadParm(&o, m); err != nil {
		return nil, err
	}
	b.appearance(&o)
	return o, nil
}

func (b *builder) deviceID() string { return cmp.Or(b.disk.Alias, Name(b.disk.Target, RoleDevice)) }

// limits adds the limits, which are set after the device is added.
func (b *builder) limits(in medium, m Machine) error {
	t, err := b.disk.limits(m)
	if err == nil && t != nil && t.Any() && in.node != "" {
		b.graph.Throttling = t.throttle(qomPath(b.disk.Bus, b.deviceID()))
	}
	return err
}

// appearance adds the properties that the guest sees.
func (b *builder) appearance(o *Object) {
	d, t := b.disk, b.disk.Tuning
	o.AddNumber("logical_block_size", t.BlockIO.Logical)
	o.AddNumber("physical_block_size", t.BlockIO.Physical)
	o.AddNumber("discard_granularity", t.BlockIO.DiscardGranularity)
	if d.WWN != 0 {
		o.Add("wwn", d.WWN)
	}
	o.AddNumber("rotation_rate", t.RotationRate)
	o.AddText("vendor", t.Vendor)
	if d.Bus == BusSCSI {
		o.AddText("product", t.Product)
	} else {
		o.AddText("model", t.Product)
	}
	if d.Bus == BusUSB && t.Removable == "" {
		o.Add("removable", false)
	}
	addSwitch(o, "removable", t.Removable)
	addSwitch(o, "dpofua", t.DPOFUA)
	if mode, ok := cacheModes[d.cacheMode()]; ok && d.Device != DeviceLUN {
		o.Add("write-cache", mode.writeCache)
	}
	o.AddNumber("cyls", t.Geometry.Cylinders)
	o.AddNumber("heads", t.Geometry.Heads)
	o.AddNumber("secs", t.Geometry.Sectors)
	o.AddText("bios-chs-trans", t.Geometry.Translation)
	o.AddText("serial", escapeSerial(d.Serial))
	werror, rerror := d.errorPolicies()
	o.AddText("werror", werror)
	o.AddText("rerror", rerror)
}

// addVirtio adds the tuning of a virtio disk.
//
//	driver@iommu, @ats, @packed, @page_per_vq  -> iommu_platform, ats, packed, page-per-vq
//	driver@iothread                            -> iothread
//	driver@ioeventfd, @event_idx               -> ioeventfd, event_idx
//	driver@queues, @queue_size                 -> num-queues, queue-size
//	driver/iothreads                           -> iothread-vq-mapping
func addVirtio(o *Object, v Driver) {
	addSwitch(o, "iommu_platform", v.IOMMU)
	addSwitch(o, "ats", v.ATS)
	addSwitch(o, "packed", v.Packed)
	addSwitch(o, "page-per-vq", v.PagePerVQ)
	if v.IOThread > 0 {
		o.Add("iothread", iothread(v.IOThread))
	}
	addSwitch(o, "ioeventfd", v.IOEventFD)
	addSwitch(o, "event_idx", v.EventIdx)
	o.AddNumber("num-queues", v.Queues)
	o.AddNumber("queue-size", v.QueueSize)
	if len(v.IOThreads) == 0 {
		return
	}
	var mapping []any
	for _, t := range v.IOThreads {
		entry := Object{{"iothread", iothread(t.ID)}}
		var queues []any
		for _, q := range t.Queues {
			queues = append(queues, int(q))
		}
		if queues != nil {
			entry.Add("vqs", queues)
		}
		mapping = append(mapping, entry)
	}
	o.Add("iothread-vq-mapping", mapping)
}

// iothread returns the id of libvirt's object for an I/O thread of the VM.
func iothread(id uint) string { return "iothread" + strconv.FormatUint(uint64(id), 10) }

// loadParm adds boot@loadparm, which only mainframes support.
func (b *builder) loadParm(o *Object, m Machine) error {
	text := b.disk.Tuning.LoadParm
	if text != "" && m.Known() && !m.channelBus() {
		return unsupported("disk/boot@loadparm", "only a mainframe (s390x) reads it, and the machine is '"+m.Type+"': remove it")
	}
	o.AddText("loadparm", text)
	return nil
}

// driverName returns QEMU's name of the device; transport is that of a virtio device.
func driverName(d *Disk, transport string) (string, error) {
	switch d.Bus {
	case BusVirtio:
		suffix := transport
		if transport == "pci" && (d.Model == ModelTransitional || d.Model == ModelNonTransitional) {
			suffix += strings.TrimPrefix(string(d.Model), "virtio")
		}
		if d.Image.Source.Kind == SourceVHostUser {
			return "vhost-user-blk-" + suffix, nil
		}
		return "virtio-blk-" + suffix, nil
	case BusUSB:
		return "usb-storage", nil
	case BusFDC:
		return "floppy", nil
	case BusSCSI:
		return map[DeviceKind]string{DeviceLUN: "scsi-block", DeviceCDROM: "scsi-cd", DeviceDisk: "scsi-hd"}[d.Device], nil
	case BusIDE, BusSATA:
		return map[DeviceKind]string{DeviceCDROM: "ide-cd", DeviceDisk: "ide-hd"}[d.Device], nil
	}
	return "", unsupported("disk/target@bus", fmt.Sprintf("the bus %q is not supported", d.Bus))
}

// qomPath returns the path of the object that uses the node, for block_set_io_throttle.
func qomPath(bus Bus, id string) string {
	switch bus {
	case BusVirtio:
		return "/machine/peripheral/" + id + "/virtio-backend"
	case BusUSB:
		return "/machine/peripheral/" + id + "/" + id + ".0/legacy[0]"
	}
	return id
}

// findPlace returns the location of the disk's device: its address or, without one,
// a free location.
func findPlace(d *Disk, m Machine) (place, error) {
	switch d.Bus {
	case BusVirtio:
		return placeVirtio(d, m)
	case BusSCSI:
		return placeSCSI(d, m)
	case BusUSB:
		return placeUSB(d, m)
	case BusIDE, BusSATA, BusFDC:
		members, err := placeFixed(d, m)
		return place{members: members}, err
	}
	return place{}, unsupported("disk/target@bus", fmt.Sprintf("the bus %q is not supported", d.Bus))
}
