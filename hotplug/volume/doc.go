// Package volume makes, resizes and destroys encrypted volumes on this host.
//
//	made, err := volume.Create(ctx, volume.Request{Path: "/var/lib/images/vm1-vdb.img", Size: 10 << 30}, keys)
//
// A volume has one of these layouts, which every QEMU since 9.0 and luksplug attach:
//
//	image:     LUKS header | payload             Format raw, no Header
//	image:     payload      header file: LUKS    Format raw, Header
//	qcow2:     payload      header file: LUKS    Format qcow2, Header
//	qcow2:     LUKS header inside, payload       Format qcow2, no Header; Backing is possible
//
// # The order
//
// The passphrase is in its key store before the first byte of the volume is written, so that no crash leaves a volume
// without its key. Files are made under a name of their own in their directory, synced, and only then get their names,
// which must be free, or those of files that may be replaced: an interrupted run leaves no incomplete file with the volume's
// name. A failed run removes what it has made, the secret included, and says what it could not remove.
//
// The raw image can also be a block device that exists. It is open for exclusive use during the run, only the header's
// area is written, and a failed run writes back what was there. A run that is killed can leave the new header.
//
// [Resize] and [Destroy] refuse a volume that is in use. Destroy overwrites the header before it removes the secret and the
// files, and marks what it has begun, so that a further run finishes it.
//
// Headers are written by package secrets/luks, in this process; qemu-img makes qcow2 images, and learns a one-time
// passphrase only.
//
// # Headers of volumes that exist
//
// [BackupHeader] and [RestoreHeader] copy a header and write it back. [DetachHeader] and [AttachHeader] move it out of its
// image into a file of its own and back. Their writes are ordered so that the same call finishes after a crash.
//
// # Volumes that are being filled
//
// With Request.Incomplete a volume is made that neither luksplug nor QEMU, libvirt or cryptsetup opens, because its header is
// marked, until [Complete] is called. QEMU writes to it meanwhile by an ephemeral header (package secrets/luks). A qcow2 image
// with the header inside is opened by QEMU itself: [Complete] removes its mark, QEMU opens the image, and [MarkIncomplete] marks
// it again before the first byte is copied. QEMU keeps the header in memory, and does not write it.
package volume
