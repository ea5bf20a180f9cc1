// Package hook is what luksplug does when libvirt calls it as a hook: it brings
// the disks of a domain through cold start, save and restore, and migration.
//
// libvirt runs the executables in its hooks directory at certain points of a domain's
// life, and waits for them. It says what happens by arguments (NAME OPERATION
// SUBOPERATION EXTRA) and gives the domain's XML on standard input. See libvirt's
// hooks document. What luksplug does, by operation:
//
//	prepare    before there is a QEMU: the files of every disk are looked at, the
//	           keys derived, and what QEMU reads as it starts is put on tmpfs.
//	           A failure fails the start, with the error for the user
//	started    QEMU runs: what was put on tmpfs is removed, QEMU's secret objects
//	           too, limits are set, and disks plugged that are not among QEMU's
//	           arguments
//	restore    the domain comes from a file of its state, or from another host: the
//	migrate    disks that it had are put among its arguments, and stale ones removed.
//	           What is printed replaces the domain's XML
//	stopped    QEMU is gone: nothing of the domain stays on this host
//	release
//
// Nothing here connects to libvirt, which waits for the hook: all that is needed
// is in the domain's XML (see package record), on this host, and in key stores
// other than libvirt's.
//
// # What must not go wrong
//
// A hook can lose a VM or its data. libvirt kills the running VM when a hook fails
// at reconnect, and deletes the saved state of a domain whose hook fails at
// restore. So neither operation ever fails here ([Operation.MustSucceed]), and
// restore does only what needs no key and no file: it changes the XML. What can
// fail is done at prepare, which follows it, and where a failure costs nothing.
package hook
