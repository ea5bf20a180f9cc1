package blockgraph

import "cmp"

// Overlay says which file takes what a guest writes to a transient disk. It does
// not exist before the disk is attached: the executor of the plan makes it, an
// empty qcow2 image of the size that the node Base shows, just before the step
// that opens Node; and removes its name just after, so that the file is gone with
// the last process that has it open.
type Overlay struct {
	// Path is the file, on the host of the VM: the image's own path, and the VM's
	// name behind it, as libvirt has it.
	Path string
	// Node is the name of the node that opens the file.
	Node string
	// Base is the name of the node that the overlay lies over.
	Base string
	// Secret is the id of the object with the one-time passphrase that the
	// overlay is encrypted with; "" for a disk without encryption. Nobody needs it
	// again when the overlay is open.
	Secret string
}

// unnamed stands for the name of a VM that is not known.
const unnamed = "VM"

// overlayPath returns the name of an overlay: that of libvirt (qemu_snapshot.c,
// qemuSnapshotGetTransientDiskDef).
func overlayPath(image, vm string) string { return image + ".TRANSIENT-" + cmp.Or(vm, unnamed) }

// overlay adds the nodes of a transient disk's overlay over all that it has
// otherwise, and returns the name of the top one.
//
//	<transient/>        -> file, over it qcow2 with backing: the image's top node
//	<encryption> in any
//	layer of the disk   -> encrypt.format, encrypt.key-secret of the overlay
//
// The file is opened for writing at once. With auto-read-only QEMU would open it a
// second time, by its name, when the device comes (block/file-posix.c,
// raw_reconfigure_getfd), and it has none any more then.
//
// libvirt does the same with blockdev-create and blockdev-snapshot, in the running
// QEMU, and without encryption.
func (b *builder) overlay(base string) string {
	file, top := Name(b.disk.Target, RoleOverlayStorage), Name(b.disk.Target, RoleOverlayFormat)
	o := &Overlay{Path: overlayPath(b.disk.Image.Source.Path, b.machine.Name), Node: file, Base: base}
	b.graph.Overlay = o
	l := layer{overlay: true}

	storage := Object{{"driver", "file"}, {"filename", o.Path}}
	storage.AddText("aio", b.disk.Driver.IO)
	storage.Add("node-name", file)
	storage.Add("read-only", false)
	storage.Add("discard", "unmap")
	b.addCache(&storage)
	b.add(Node{Role: RoleOverlayStorage, Options: storage, From: o.Path})

	format := Object{{"node-name", top}}
	b.addAccess(&format, l, true)
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
