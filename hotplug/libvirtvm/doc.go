// Package libvirtvm plugs encrypted disks into a libvirt domain, and has libvirt
// remember them.
//
// A [Domain] is opened by a connection URI and the domain's name, UUID or id:
//
//	d, err := libvirtvm.Open(ctx, "qemu:///system", "vm1", libvirtvm.Options{})
//	...
//	defer d.Close()
//	disk, err := libvirtvm.ParseDisk(xml, libvirtvm.Reading{})
//	...
//	attached, err := d.Attach(ctx, disk, store, libvirtvm.AttachOptions{Persistent: true})
//
// Package hotplug does the work in QEMU, which [Domain.VM] connects to: over
// luksplug's own monitor if the domain has one on this host, otherwise through
// libvirt.
//
// # What libvirt remembers
//
// libvirt does not know these disks. Attach writes each into the domain's metadata
// before it is in QEMU, and Detach removes it, so that luksplug's hook (package
// hook) finds it when the domain is restored or migrated. A persistent disk is also
// in the domain's definition, and the hook plugs it at every start. [Domain.States]
// compares QEMU with the records, and [Domain.Repair] fixes the difference.
//
// A record holds the disk's XML, which names secrets and contains none. It is signed with a
// key of the domain's host, since others can write metadata; [Domain.Adopt] signs one that
// was not, after it was examined.
//
// A disk that is copied to another volume takes its records along, see [Domain.MoveRecords].
//
// # Disks of libvirt's own
//
// luksplug changes nothing of a disk that libvirt itself has attached. [BlockCopy] has libvirt copy one to another volume,
// and use that one, by a job of its own.
//
// # Errors
//
// Besides those of package hotplug, errors wrap the sentinels of this package, which
// tell what the caller can change. Errors of libvirt itself wrap libvirt.Error of
// go-libvirt.
package libvirtvm
