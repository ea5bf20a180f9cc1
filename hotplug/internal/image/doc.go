// Package image examines a disk image on this host before QEMU opens it: its format and
// whether it is LUKS ([Probe]), whether it can be written ([Writable]), whether another QEMU
// locks it ([CheckLock]), and what a guest would read from it ([OpenGuest]).
//
// It only reads, and only regular files and block devices: it refuses pipes, sockets,
// character devices and directories without waiting for them.
//
// A result is true for this process at this moment. QEMU may run later, as another user and
// in another mount namespace, so a check saves a round of attach and rollback and gives a
// better error, but guarantees nothing.
package image
