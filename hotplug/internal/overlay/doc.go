// Package overlay creates the files that take a guest's writes to a transient disk.
//
// A file is an empty qcow2 image without a backing file name: QEMU gets the image below
// it as an option. The overlay of an encrypted disk is encrypted with a volume key of its
// own (see [luks.Fresh]), so that no plaintext is written to a file. Without its one-time
// passphrase, which is not kept, the content is lost.
//
// qemu-img is not used: it takes seconds to calibrate the iterations for a passphrase, which
// a random one does not need, and would have to be given the passphrase.
//
//	cluster 0      header, extensions: the place of the LUKS header, and the mark
//	cluster 1      refcount table, of one entry
//	cluster 2      refcount block, for the clusters here and 2 GiB of what follows
//	cluster 3 ..   L1 table, empty
//	then           LUKS header
//
// See QEMU's docs/interop/qcow2.rst.
//
// A file has a name only until QEMU has opened it. Its mark names the disk, so that the
// remains of an interrupted run can be removed, but no other file.
package overlay
