// Package image tells what a disk image on this host is, before QEMU is asked to
// open it: that it exists and may be read or written ([Readable], [Writable]), its
// format and whether it is LUKS ([Probe]), whether another QEMU holds it
// ([CheckLock]), and what a guest would find in its first bytes ([GuestPrefix],
// [OpenGuest]).
//
// It only reads. Regular files and block devices are opened; everything else
// (pipes, sockets, character devices, folders) is refused without waiting for it.
//
// What it says holds for this process at this moment: QEMU may run as another
// user, in another mount namespace, and later. A check that passes here saves a
// round of attach and rollback, and makes a better error; it proves nothing.
package image
