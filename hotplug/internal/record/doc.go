// Package record reads and writes the element in a libvirt domain's metadata that
// says which disks luksplug has attached to it.
//
// libvirt does not know these disks. When the domain is started again, restored or
// migrated, they have to be given to QEMU again, and the domain's XML is all that is
// there. So they are recorded in it, in one element of luksplug's own namespace, which
// libvirt keeps and passes on:
//
//	<metadata>
//	  <luksplug:disks xmlns:luksplug="https://github.com/luksplug/luksplug/disks/1" user="+64055:+994">
//	    <luksplug:disk target="vdb" start="ephemeral">
//	      <disk type='file' device='disk'> ... <target dev='vdb' bus='virtio'/></disk>
//	      <luksplug:device>{"driver":"virtio-blk-pci","bus":"pci.7","addr":"0x0", ... }</luksplug:device>
//	    </luksplug:disk>
//	  </luksplug:disks>
//	</metadata>
//
// A record holds the disk's XML, which names secrets and holds none: a disk whose
// XML has a secret in it (cookies) is refused. The devices are those that
// device_add was told of: after a restore or a migration the guest must find the
// very same again.
//
// The live domain has the disks that are attached, the inactive one those that
// belong to it when it starts.
package record
