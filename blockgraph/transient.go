package blockgraph

import "cmp"

// Overlay is the file that receives the writes to a transient disk. The executor of the plan
// creates it, an empty qcow2 image of the size of the node Base, just before the step that
// opens Node, and unlinks it just after. So the file disappears with the last process that
// has it open.
type Overlay struct {
	Path string // on the host of the VM: the image's path and the VM's name, as in libvirt
	Node string // the name of the node that opens the file
	Base string // the name of the node below the overlay
	// Secret is the id of the object with the one-time passphrase that encrypts the
	// overlay, "" for a disk without encryption.
	Secret string
}

// overlayPath returns the name of an overlay, as libvirt does (qemu_snapshot.c,
// qemuSnapshotGetTransientDiskDef). vm is "" if it is not known.
func overlayPath(image, vm string) string { return image + ".TRANSIENT-" + cmp.Or(vm, "VM") }

// overlay adds the nodes of a transient disk's overlay, and returns the name of the top one.
//
//	<transient/>        -> file, over it qcow2 with backing: the image's top node
//	<encryption> in any
//	layer of the disk   -> encrypt.format, encrypt.key-secret of the overlay
//
// The file is opened for writing at once. With auto-read-only QEMU would reopen it by its
// name, which is removed, when the device is added (block/file-posix.c,
// raw_reconfigure_getfd). libvirt uses blockdev-create and blockdev-snapshot in the running
// QEMU, without encryption.
func (b *builder) overlay(base string) string {
	file, top := b.name(RoleOverlayStorage), b.name(RoleOverlayFormat)
	o := &Overlay{Path: overlayPath(b.disk.Image.Source.Path, b.machine.Name), Node: file, Base: base}
	b.graph.Overlay = o

	storage := Object{{"driver", "file"}, {"filename", o.Path}}
	storage.AddText("aio", b.disk.Driver.IO)
	storage.Add("node-name", file)
	storage.Add("read-only", false)
	storage.Add("discard", "unmap")
	b.addCache(&storage)
	b.add(Node{Role: RoleOverlayStorage, Options: storage, From: o.Path})

	format := Object{{"node-name", top}}
	b.addAccess(&format, layer{overlay: true}, true)
	format.Add("driver", formats[FormatQcow2].driver)
	n := Node{Role: RoleOverlayFormat, Children: []Child{{"file", file}, {"backing", base}}}
	if b.disk.Encrypted() {
		o.Secret = b.secret(SecretData{OneTime: true})
		format.Add("encrypt", Object{{"format", "luks"}, {"key-secret", o.Secret}})
		n.Secrets = []string{o.Secret}
	}
	format.Add("file", file)
	format.Add("backing", base)
	n.Options = format
	return b.add(n)
}
