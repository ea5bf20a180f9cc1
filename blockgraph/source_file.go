package blockgraph

import "fmt"

// file returns the options of a file or block device.
//
//	<disk type='file'>   source@file -> driver file, filename
//	<disk type='block'>  source@dev  -> driver host_device (host_cdrom for the host's drive), filename
//	driver@io                        -> aio
//	source/reservations              -> pr-manager, an object pr-manager-helper
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsFile.
func (b *builder) file(s Source, l layer) nodeOptions {
	driver := "file"
	if s.Kind == SourceBlock {
		driver = "host_device"
		if b.disk.Device == DeviceCDROM && !l.header && s.Path == "/dev/cdrom" {
			driver = "host_cdrom"
		}
	}
	o := nodeOptions{Object: Object{{"driver", driver}, {"filename", s.Path}}}
	if !l.header {
		o.AddText("aio", b.disk.Driver.IO)
	}
	if s.Reservations != nil {
		id := b.reservations(*s.Reservations)
		o.Add("pr-manager", id)
		o.objects = []string{id}
	}
	return o
}

// Reservations is <reservations>: a helper with the privileges that QEMU lacks handles SCSI
// persistent reservations.
type Reservations struct {
	Managed bool   // the program that attaches the disk also runs the helper
	Socket  string // of the helper; "" for a managed one that does not run yet: a plan has [ManagedHelper]
}

// ManagedHelper is the socket of qemu-pr-helper in a plan that is not for a running VM: it
// must be started with the VM. Package hotplug runs a helper for each disk, with other sockets.
const ManagedHelper = "/run/luksplug/pr-helper0.sock"

// reservations adds the object that connects to a helper.
func (b *builder) reservations(r Reservations) string {
	path := r.Socket
	if path == "" {
		path = ManagedHelper
		b.graph.Warnings = append(b.graph.Warnings, fmt.Sprintf("the reservations of %s are managed: a qemu-pr-helper has to listen on %s", b.disk.Target, path))
	}
	id := b.objectName("pr")
	b.graph.Objects = append(b.graph.Objects, GraphObject{ID: id, Options: Object{
		{"qom-type", "pr-manager-helper"}, {"id", id}, {"path", path}}})
	return id
}

// dir returns the options of a directory that the guest sees as a FAT disk.
//
//	<disk type='dir'>     source@dir -> driver vvfat, dir
//	<disk device='floppy'>           -> floppy
//	driver@type fat                  -> a raw node over it
//
// It is read-only: libvirt accepts no other. See BlockdevOptionsVVFAT.
func (b *builder) dir(s Source) nodeOptions {
	return nodeOptions{Object: Object{{"driver", "vvfat"}, {"dir", s.Path}, {"floppy", b.disk.Device == DeviceFloppy}, {"rw", false}}}
}
