// Package access lets a VM's QEMU open the images of a disk.
//
// QEMU rarely runs as root: libvirt gives it a user and a mount namespace of its own, takes
// its capabilities, and confines it by AppArmor or SELinux. luksplug usually is root, so
// QEMU may not be able to open a file that luksplug can.
//
//	problems, err := access.Check(user, []access.File{{Path: "/srv/vm1.img", What: "payload", Write: true}})
//
// [Check] queries the kernel with the identity of QEMU's user and in QEMU's mount
// namespace, so that mode bits, access control lists and directories on the way count as
// they will for QEMU. A problem comes with the command that fixes it.
//
// [Registry] gives files to QEMU's user, and returns them. It writes down the owners
// durably before it changes anything, so that no owner is lost when a run is killed or the
// host loses power. A file that several disks use is returned after the last of them.
//
// [AppArmor] adds files to the profile that libvirt made for a domain.
//
// Passing descriptors to QEMU instead of paths would make all of this unnecessary, but
// works only for ephemeral headers, which are read once. QEMU opens an image by name again
// when it takes a snapshot, ends a block job or resumes after a migration, and needs a
// descriptor of the matching mode each time. A node's /dev/fdset/3 also has no meaning for
// the next QEMU after a save or a migration, or for a query of which image is in use.
package access
