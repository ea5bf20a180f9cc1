package diskxml_test

import (
	"strings"
	"testing"
)

// TestParseDiskRefusesDevice: the causes are those that libvirt reported.
func TestParseDiskRefusesDevice(t *testing.T) {
	t.Parallel()
	// Line 1 is <disk>, line 2 <source>, line 3 <target>, line 4 the tested element.
	on := func(attrs, target, inner string) string {
		return "<disk " + attrs + ">\n<source file='/a'/>\n<target " + target + "/>\n" + inner + "\n</disk>"
	}
	virtio := func(inner string) string { return on("", "dev='vdb'", inner) }
	driver := func(inner string) string { return virtio("<driver " + inner) }
	scsi := func(inner string) string { return on("", "dev='sda'", inner) }
	lun := func(source, inner string) string {
		return "<disk type='block' device='lun'>\n<source dev='/x'>" + source + "</source>\n<target dev='sda'/>\n" + inner + "\n</disk>"
	}
	threads := func(inner string) string { return driver("queues='2'><iothreads>" + inner + "</iothreads></driver>") }
	iotune := func(inner string) string { return virtio("<iotune>" + inner + "</iotune>") }
	limit := func(name, value string) string { return "<" + name + ">" + value + "</" + name + ">" }

	for _, c := range []refusal{
		{"model", on("model='nvme'", "dev='vdb'", ""), "disk@model", 1, "unknown model"},
		{"model on scsi", on("model='virtio'", "dev='sda'", ""), "disk@model", 1, "not supported for bus 'scsi'"},
		{"snapshot", on("snapshot='yes'", "dev='vdb'", ""), "disk@snapshot", 1, "manual"},
		{"backenddomain", virtio("<backenddomain name='x'/>"), "disk/backenddomain", 0, "ignores for QEMU"},
		{"tray of a disk", on("", "dev='sda' tray='open'", ""), "disk/target@tray", 3, "only valid for cdrom and floppy"},
		{"odd tray", on("device='cdrom'", "dev='sda' tray='ajar'", ""), "disk/target@tray", 3, "open, closed"},
		{"empty usb cdrom", "<disk device='cdrom'><target dev='sda' bus='usb'/></disk>", "disk/source", 0, "must not be empty"},
		{"empty cdrom on virtio", "<disk device='cdrom'><target dev='vda'/></disk>", "disk/target@bus", 1, "ejectable"},

		{"shared qcow2", virtio("<driver type='qcow2'/><shareable/>"), "disk/shareable", 4, "requires use of supported storage format"},
		{"shared luks", virtio("<shareable/><encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"), "disk/shareable", 4, "requires use of supported storage format"},

		{"lun with qcow2", lun("", "<driver type='qcow2'/>"), "disk/driver@type", 4, "must use 'raw'"},
		{"lun with luks", lun("<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>", ""), "disk/source/encryption", 2, "doesn't support encryption"},
		{"lun with a serial", lun("", "<serial>1</serial>"), "disk/serial", 4, "do not support the serial"},
		{"lun with a wwn", lun("", "<wwn>5000c50015ea71ad</wwn>"), "disk/wwn", 4, "not supported for lun"},
		{"lun with a vendor", lun("", "<vendor>V</vendor>"), "disk/vendor", 4, "not supported for lun"},
		{"lun with a product", lun("", "<product>P</product>"), "disk/product", 4, "not supported for lun"},
		{"lun on usb", strings.Replace(lun("", ""), "dev='sda'", "dev='sda' bus='usb'", 1), "disk@device", 1, "not supported for bus='usb'"},
		{"lun on virtio", strings.Replace(lun("", ""), "dev='sda'", "dev='vda'", 1), "disk@device", 0, "no longer"},
		{"lun over nbd", "<disk type='network' device='lun'>\n<source protocol='nbd'><host name='h'/></source><target dev='sda'/></disk>", "disk/source@protocol", 2, "not supported for this protocol"},
		{"rawio of a disk", on("rawio='yes'", "dev='sda'", ""), "disk@rawio", 1, "only with device='lun'"},
		{"sgio of a disk", on("sgio='filtered'", "dev='sda'", ""), "disk@sgio", 1, "only with device='lun'"},
		{"odd rawio", strings.Replace(lun("", ""), "device=", "rawio='on' device=", 1), "disk@rawio", 1, "yes, no"},
		{"rawio and sgio, both odd", on("sgio='x' rawio='x'", "dev='sda'", ""), "disk@rawio", 1, "yes, no"},
		{"rawio and sgio of a disk", on("sgio='filtered' rawio='yes'", "dev='sda'", ""), "disk@rawio", 1, "only with device='lun'"},
		{"unfiltered", strings.Replace(lun("", ""), "device=", "sgio='unfiltered' device=", 1), "disk@sgio", 0, "no longer supported"},

		{"queues on scsi", scsi("<driver queues='2'/>"), "disk/driver@queues", 4, "only supported for virtio"},
		{"ats on scsi", scsi("<driver ats='on'/>"), "disk/driver@ats", 4, "only supported for virtio"},
		{"odd queues", driver("queues='x'/>"), "disk/driver@queues", 4, "no number"},
		{"odd switch", driver("packed='yes'/>"), "disk/driver@packed", 4, "on, off"},
		{"iothread on scsi", scsi("<driver iothread='1'/>"), "disk/driver@iothread", 4, "not available for bus scsi"},
		{"iothread and iothreads", driver("iothread='1'><iothreads><iothread id='2'/></iothreads></driver>"), "disk/driver@iothread", 4, "used together"},
		{"thread 0", threads("<iothread id='0'/>"), "disk/driver/iothreads/iothread@id", 4, "from 1"},
		{"thread twice", threads("<iothread id='1'/><iothread id='1'/>"), "disk/driver/iothreads/iothread@id", 4, "duplicate"},
		{"some threads with queues", threads("<iothread id='1'><queue id='0'/></iothread><iothread id='2'/>"), "disk/driver/iothreads/iothread", 4, "all iothreads or for none"},
		{"queue out of range", threads("<iothread id='1'><queue id='2'/></iothread>"), "disk/driver/iothreads/iothread/queue@id", 4, "out of range"},
		{"queue twice", threads("<iothread id='1'><queue id='0'/></iothread><iothread id='2'><queue id='0'/></iothread>"), "disk/driver/iothreads/iothread/queue@id", 4, "already assigned"},
		{"queue without a thread", threads("<iothread id='1'><queue id='1'/></iothread>"), "disk/driver/iothreads/iothread", 4, "missing iothread mapping for queue '0'"},
		{"mapping without queues", driver("><iothreads><iothread id='1'><queue id='0'/></iothread></iothreads></driver>"), "disk/driver/iothreads/iothread", 4, "count of queues"},

		{"vendor on virtio", virtio("<vendor>V</vendor>"), "disk/vendor", 4, "only scsi"},
		{"product on usb", on("", "dev='sda' bus='usb'", "<product>P</product>"), "disk/product", 4, "only ide, sata and scsi"},
		{"long vendor", scsi("<vendor>123456789</vendor>"), "disk/vendor", 4, "more than 8"},
		{"long product", scsi("<product>12345678901234567</product>"), "disk/product", 4, "more than 16"},
		{"long model", on("", "dev='hda'", "<product>"+strings.Repeat("x", 41)+"</product>"), "disk/product", 4, "more than 40"},
		{"vendor in Greek", scsi("<vendor>β</vendor>"), "disk/vendor", 4, "not a printable"},
		{"rotation on virtio", on("", "dev='vda' rotation_rate='1'", ""), "disk/target@rotation_rate", 3, "scsi, ide and sata"},
		{"rotating cdrom", on("device='cdrom'", "dev='sda' rotation_rate='1'", ""), "disk/target@rotation_rate", 3, "disk device"},
		{"rotation too fast", on("", "dev='sda' rotation_rate='65536'", ""), "disk/target@rotation_rate", 3, "65535"},
		{"removable on virtio", on("", "dev='vda' removable='on'", ""), "disk/target@removable", 3, "usb or scsi"},
		{"odd removable", on("", "dev='sda' removable='maybe'", ""), "disk/target@removable", 3, "on, off"},
		{"dpofua on virtio", on("", "dev='vda' dpofua='on'", ""), "disk/target@dpofua", 3, "scsi disks"},
		{"acpi on scsi", scsi("<acpi index='1'/>"), "disk/acpi@index", 4, "PCI devices"},
		{"acpi 0", virtio("<acpi index='0'/>"), "disk/acpi@index", 4, "zero"},
		{"acpi and ccw", virtio("<acpi index='1'/><address type='ccw' cssid='0xfe' ssid='0' devno='1'/>"), "disk/acpi@index", 4, "PCI devices"},
		{"transitional mmio", on("model='virtio-transitional'", "dev='vda'", "<address type='virtio-mmio'/>"), "disk@model", 1, "is for PCI only"},
		{"geometry on usb", on("", "dev='sda' bus='usb'", "<geometry cyls='1' heads='1' secs='1'/>"), "disk/geometry", 4, "'usb' bus"},
		{"translation on virtio", virtio("<geometry cyls='1' heads='1' secs='1' trans='lba'/>"), "disk/geometry@trans", 4, "only be set for 'ide'"},
		{"odd translation", on("", "dev='hda'", "<geometry trans='large'/>"), "disk/geometry@trans", 4, "auto, none, lba"},
		{"odd block size", virtio("<blockio logical_block_size='4k'/>"), "disk/blockio@logical_block_size", 4, "no number"},

		{"total and read", iotune(limit("total_bytes_sec", "1") + limit("read_bytes_sec", "1")), "disk/iotune", 4, "total and read/write bytes_sec cannot"},
		{"total and write, bursts", iotune(limit("total_iops_sec_max", "1") + limit("write_iops_sec_max", "1")), "disk/iotune", 4, "iops_sec_max cannot"},
		{"limit too high", iotune(limit("read_iops_sec", "1000000000000001")), "disk/iotune", 4, "no more than 1000000000000000"},
		{"size too high", iotune(limit("size_iops_sec", "1000000000000001")), "disk/iotune", 4, "no more than"},
		{"negative limit", iotune(limit("read_iops_sec", "-1")), "disk/iotune/read_iops_sec", 4, "integer"},
		{"filter twice", virtio("<throttlefilters><throttlefilter group='a'/><throttlefilter group='a'/></throttlefilters>"), "disk/throttlefilters/throttlefilter@group", 4, "duplicate"},
		{"filter of nothing", virtio("<throttlefilters><throttlefilter/></throttlefilters>"), "disk/throttlefilters/throttlefilter@group", 4, "is missing"},
		{"filtered cdrom", on("device='cdrom'", "dev='sda'", "<throttlefilters><throttlefilter group='a'/></throttlefilters>"), "disk/throttlefilters", 0, "cdrom"},
		{"empty floppy drive, filtered", "<disk device='floppy'><target dev='fda'/><throttlefilters><throttlefilter group='a'/></throttlefilters></disk>", "disk/throttlefilters", 1, "nothing to throttle"},
		{"filters and limits", virtio("<throttlefilters><throttlefilter group='a'/></throttlefilters><iotune>" + limit("read_iops_sec", "1") + "</iotune>"), "disk/throttlefilters", 4, "used together with 'iotune'"},
	} {
		t.Run(c.name, c.check)
	}
}
