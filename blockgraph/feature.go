package blockgraph

import (
	"path"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// Feature is something that a disk's XML requires and that not every QEMU has.
type Feature struct {
	Element string // the path of the element or attribute that requires it, as in [InvalidError]; "" for several
	Name    string // for messages
	Since   string // the first version of QEMU that has it, "" for all
	Until   string // the first version of QEMU that no longer has it, "" for none
	Library string // what QEMU must have been built with, "" for nothing
	Instead string // how a disk can do without it, "" if it cannot
}

// Describe returns the feature's name with its element, in the notation of XML.
func (f Feature) Describe() string {
	if f.Element == "" {
		return f.Name
	}
	return f.Name + " (" + message.Element(f.Element) + ")"
}

// Feature returns the part of a disk's XML that an argument of the command comes from.
// argument is its path in QEMU, such as "header" or "encrypt.format". A feature that every
// supported QEMU has is named as in QEMU.
func (c Command) Feature(argument string) Feature {
	driver, value := c.Arguments.Text("driver"), textAt(c.Arguments, argument)
	for _, e := range features {
		if e.command == c.Execute && e.argument == argument && matches(e.driver, driver) && matches(e.value, value) {
			f := e.Feature
			f.Name = strings.ReplaceAll(f.Name, "%", value)
			return f
		}
	}
	f := Feature{Name: "the argument " + argument + " of " + c.Execute}
	switch {
	case argument == "":
		f.Name = "the command " + c.Execute
	case c.Execute == "device_add" && argument == "driver":
		f = Feature{Element: "disk/target@bus", Name: "the device " + driver}
	case c.Execute == "device_add":
		f.Name = "the property " + argument + " of " + driver
		if element := propertyElements[argument]; element != "" {
			f.Element = "disk/" + element
		}
	case driver != "":
		f.Name = "the option " + argument + " of QEMU's driver " + driver
	}
	return f
}

// matches reports whether text fits a pattern of path.Match; "" fits all.
func matches(pattern, text string) bool {
	ok, err := path.Match(pattern, text)
	return pattern == "" || ok && err == nil
}

// textAt returns the text at a path of members, "" if there is none.
func textAt(o Object, at string) string {
	for {
		name, rest, more := strings.Cut(at, ".")
		if !more {
			return o.Text(name)
		}
		inner, ok := o.Get(name).(Object)
		if !ok {
			return ""
		}
		o, at = inner, rest
	}
}

// features are what some versions or builds of QEMU lack. The versions are those of QEMU's
// reference ("Since" in qapi/*.json) and of its list of removed features; the first entry
// that matches counts. The argument's value replaces a % in a name.
var features = []struct {
	command, driver, argument, value string
	Feature
}{
	{"blockdev-add", "luks", "header", "", Feature{
		Element: "disk/source/encryption/header", Name: "a detached LUKS header", Since: "9.0",
		Instead: "have a storage daemon unlock it"}},
	{"blockdev-add", "qcow2", "discard-no-unref", "", Feature{
		Element: "disk/driver@discard_no_unref", Name: "the option discard-no-unref of QEMU's driver qcow2", Since: "8.1",
		Instead: "remove the attribute"}},
	{"blockdev-add", "rbd", "encrypt", "", Feature{
		Element: "disk/source/encryption@engine", Name: "an image that Ceph's library decrypts", Since: "6.1", Library: "a librbd of 16.1 or later"}},
	{"blockdev-add", "rbd", "encrypt.parent", "", Feature{
		Element: "disk/source/encryption/secret", Name: "a second passphrase for the parent of a cloned image", Since: "8.0",
		Library: "a librbd of 17 or later", Instead: "flatten the image (rbd flatten) and leave one <secret>"}},
	{"blockdev-add", "rbd", "encrypt.format", "luks-any", Feature{
		Element: "disk/source/encryption@format", Name: "the encryption format luks-any", Since: "8.0",
		Library: "a librbd of 17 or later", Instead: "give the version: format='luks' or format='luks2'"}},
	{"blockdev-add", "nbd", "tls-hostname", "", Feature{
		Element: "disk/source@tlsHostname", Name: "a separate name for the server's certificate", Since: "7.0",
		Instead: "reach the server by the name that its certificate has, and remove the attribute"}},
	{"blockdev-add", "nbd", "reconnect-delay", "", Feature{
		Element: "disk/source/reconnect@delay", Name: "waiting for a lost NBD server", Since: "4.2", Instead: "remove <reconnect>"}},
	{"blockdev-add", "nbd", "tls-creds", "", Feature{Element: "disk/source@tls", Name: "TLS for NBD", Library: "GnuTLS"}},
	{"blockdev-add", "virtio-blk-vhost-vdpa", "path", "", Feature{
		Element: "disk/source@dev", Name: "a vhost-vdpa device that is passed as a descriptor", Since: "8.1", Library: "libblkio"}},
	{"blockdev-add", "", "driver", "virtio-blk-vhost-vdpa", Feature{
		Element: "disk@type", Name: "a disk of the type vhostvdpa", Since: "8.1", Library: "libblkio",
		Instead: "use the kernel's driver (virtio_vdpa) on the host, and give its block device as a disk of the type block"}},
	{"blockdev-add", "", "driver", "gluster", Feature{
		Element: "disk/source@protocol", Name: "the protocol gluster", Until: "11.1", Library: "GlusterFS's library",
		Instead: "mount the Gluster volume on the host, and give the file in it as a disk of the type file"}},
	{"blockdev-add", "", "driver", "vxhs", Feature{
		Element: "disk/source@protocol", Name: "the protocol vxhs", Until: "5.2", Instead: "offer the disk by another protocol, such as iscsi"}},
	{"blockdev-add", "", "driver", "rbd", Feature{Element: "disk/source@protocol", Name: "the protocol rbd", Library: "librbd"}},
	{"blockdev-add", "", "driver", "iscsi", Feature{
		Element: "disk/source@protocol", Name: "the protocol iscsi", Library: "libiscsi",
		Instead: "log in to the target on the host (iscsiadm), and give its block device as a disk of the type block"}},
	{"blockdev-add", "", "driver", "nfs", Feature{
		Element: "disk/source@protocol", Name: "the protocol nfs", Library: "libnfs",
		Instead: "mount the export on the host, and give the file in it as a disk of the type file"}},
	{"blockdev-add", "", "driver", "ssh", Feature{Element: "disk/source@protocol", Name: "the protocol ssh", Library: "libssh"}},
	{"blockdev-add", "", "driver", "http*", Feature{Element: "disk/source@protocol", Name: "the protocol %", Library: "libcurl"}},
	{"blockdev-add", "", "driver", "ftp*", Feature{Element: "disk/source@protocol", Name: "the protocol %", Library: "libcurl"}},
	{"blockdev-add", "", "driver", "tftp", Feature{
		Element: "disk/source@protocol", Name: "the protocol tftp", Instead: "offer the image over http"}},
	{"blockdev-add", "", "driver", "nvme", Feature{Element: "disk@type", Name: "a disk of the type nvme", Library: "support for VFIO"}},
	{"blockdev-add", "", "driver", "", Feature{Element: "disk/driver@type", Name: "QEMU's driver %"}},
	{"blockdev-add", "", "aio", "io_uring", Feature{
		Element: "disk/driver@io", Name: "I/O through io_uring", Since: "5.0", Library: "liburing", Instead: "use io='threads' or io='native'"}},
	{"blockdev-add", "", "aio", "native", Feature{
		Element: "disk/driver@io", Name: "native asynchronous I/O", Library: "libaio", Instead: "use io='threads'"}},
	{"chardev-add", "", "backend.data.reconnect-ms", "", Feature{Element: "disk/source/reconnect@timeout", Name: "reconnecting to a vhost-user server"}},
	{"chardev-add", "", "backend.data.reconnect", "", Feature{Element: "disk/source/reconnect@timeout", Name: "reconnecting to a vhost-user server"}},
	{"object-add", "", "qom-type", "tls-creds-x509", Feature{Element: "disk/source@tls", Name: "TLS with certificates", Library: "GnuTLS"}},
	{"object-add", "", "qom-type", "pr-manager-helper", Feature{Element: "disk/source/reservations", Name: "persistent reservations through a helper", Library: "support for them, on Linux"}},
	{"device_add", "virtio-blk-*", "iothread-vq-mapping", "", Feature{
		Element: "disk/driver/iothreads", Name: "several I/O threads for one disk", Since: "9.0",
		Instead: "give it one thread, by <driver iothread='...'>"}},
	{"device_add", "scsi-block", "logical_block_size", "", blockSizeOfLUN},
	{"device_add", "scsi-block", "physical_block_size", "", blockSizeOfLUN},
	{"device_add", "scsi-block", "discard_granularity", "", blockSizeOfLUN},
	{"device_add", "*-ccw", "driver", "", Feature{
		Element: "disk/address@type", Name: "the device % of a mainframe (s390x)",
		Instead: "give an <address> that the machine has, or none"}},
	{"device_add", "vhost-user-blk-*", "driver", "", Feature{
		Element: "disk@type", Name: "the device %", Since: "2.12", Library: "support for vhost-user"}},
	{"device_add", "*-transitional", "driver", "", Feature{
		Element: "disk@model", Name: "the device %", Since: "4.0", Instead: "use model='virtio'"}},
}

// blockSizeOfLUN is accepted by libvirt but supported by no QEMU.
var blockSizeOfLUN = Feature{Element: "disk/blockio", Name: "block sizes of its own for a LUN", Instead: "remove <blockio>: a LUN has those of the host's device"}

// propertyElements maps the properties of the device to the XML elements that set them, as
// in the table of [builder.device].
var propertyElements = map[string]string{
	"bus": "address", "addr": "address", "multifunction": "address", "channel": "address", "scsi-id": "address",
	"lun": "address", "unit": "address", "port": "address", "devno": "address",
	"acpi-index": "acpi@index", "share-rw": "shareable", "bootindex": "boot@order", "loadparm": "boot@loadparm",
	"logical_block_size": "blockio@logical_block_size", "physical_block_size": "blockio@physical_block_size",
	"discard_granularity": "blockio@discard_granularity",
	"wwn":                 "wwn", "serial": "serial", "device_id": "serial", "vendor": "vendor", "product": "product", "model": "product",
	"rotation_rate": "target@rotation_rate", "removable": "target@removable", "dpofua": "target@dpofua",
	"cyls": "geometry@cyls", "heads": "geometry@heads", "secs": "geometry@secs", "bios-chs-trans": "geometry@trans",
	"write-cache": "driver@cache", "werror": "driver@error_policy", "rerror": "driver@rerror_policy",
	"iommu_platform": "driver@iommu", "ats": "driver@ats", "packed": "driver@packed", "page-per-vq": "driver@page_per_vq",
	"num-queues": "driver@queues", "queue-size": "driver@queue_size", "iothread": "driver@iothread",
	"ioeventfd": "driver@ioeventfd", "event_idx": "driver@event_idx",
}
