// Package overlay makes the files that take what a guest writes to a transient
// disk.
//
// Such a file is an empty qcow2 image, over whatever image QEMU is told to put it
// over: it names none itself. Where the disk is encrypted, the overlay is, too, by
// a volume key of its own that nobody has, see [luks.Fresh]: no plaintext of the
// disk gets into a file, and with the one-time passphrase all of it is lost.
//
// The images are written here, not by qemu-img: that takes seconds to find out how
// many iterations a passphrase needs, which a random one does not, and would have
// to be given the passphrase.
//
//	cluster 0      header, extensions: where the LUKS header is, and whose the file is
//	cluster 1      refcount table, of one entry
//	cluster 2      refcount block, for the clusters here and 2 GiB of what follows
//	cluster 3 ..   L1 table, empty
//	behind that    LUKS header
//
// See QEMU's docs/interop/qcow2.rst.
//
// A file has a name only until QEMU has opened it, and it says whose it is: so an
// interrupted run can be cleaned up after, and nobody else's file is removed.
package overlay
