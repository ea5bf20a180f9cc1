// Package access sees to it that a VM's QEMU may open the images of a disk.
//
// QEMU rarely runs as root: libvirt gives it a user of its own, takes its
// capabilities, shows it a mount namespace of its own, and confines it by AppArmor
// or SELinux. luksplug usually is root, so that a file that it can read tells
// nothing of what QEMU can.
//
//	problems, err := access.Check(user, []access.File{{Path: "/srv/vm1.img", What: "payload", Write: true}})
//
// [Check] asks the kernel, as the user that QEMU runs as and where QEMU sees the
// path. Mode bits, access control lists and folders on the way are so all judged by
// the one that judges them later. What stands in the way comes with the command
// that removes it.
//
// [Registry] gives files to QEMU's user, and back. It writes down whose they were
// before it changes anything, on a disk, so that a run that was killed, or a host
// that lost power, loses no owner. A file that several disks are made of goes back
// when the last of them is gone.
//
// [AppArmor] adds files to the profile that libvirt made for a domain.
//
// Descriptors that are passed to QEMU in place of paths would need none of this.
// They are used for ephemeral headers, which are read once. An image is different:
// QEMU opens it again, by its name, when it takes a snapshot, ends a block job, or
// resumes after a migration, and then needs a descriptor with just the mode that it
// asks for. A node that says /dev/fdset/3 also means nothing to the next QEMU, after
// a save or a migration, nor to who asks which image is in use.
package access
