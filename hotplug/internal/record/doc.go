// Package record reads and writes the element in a libvirt domain's metadata that lists
// the disks that luksplug has attached to it.
//
// libvirt does not know these disks, but they have to be given to QEMU again when the domain
// is started, restored or migrated, and its XML is all that is available then. So they are
// recorded in it, in an element of luksplug's own namespace, which libvirt keeps:
//
//	<metadata>
//	  <luksplug:disks xmlns:luksplug="https://github.com/luksplug/luksplug/disks/1" user="+64055:+994" mac="...">
//	    <luksplug:disk target="vdb" start="ephemeral">
//	      <disk type='file' device='disk'> ... <target dev='vdb' bus='virtio'/></disk>
//	      <luksplug:device>{"driver":"virtio-blk-pci","bus":"pci.7","addr":"0x0", ... }</luksplug:device>
//	    </luksplug:disk>
//	  </luksplug:disks>
//	</metadata>
//
// A record holds the disk's XML, which names secrets; a disk whose XML contains a secret
// (cookies) is refused. The devices are those of device_add: the guest must find the same
// ones after a restore or a migration.
//
// A client who may edit the domain can write this element, and a saved state or a migration
// carries it. So a [Signer] signs it with a key of the host, over the domain's UUID and the
// whole content, and only one that verifies is acted on.
//
// The live domain has the disks that are attached, the inactive one those that belong to it
// when it starts.
package record
