// Package diskgen draws random disks, and domains for them, as libvirt's XML: all that blockgraph reads of a
// <disk>, in unusual combinations. luksplug has to plan such a disk as libvirt does, and to refuse it if
// libvirt does.
//
//	Cases ── draws ──> Case ──┬── XML ────────────> a libvirtd: the arguments of QEMU
//	                          └── Context, DiskXML ──> blockgraph: the same
//
// Most cases are valid. Some are wild: a setting may not fit the disk, such as a rotation rate on a floppy
// drive, so that refusals are drawn as well. [Reduce] shrinks a case that shows a difference: it removes
// elements and attributes one at a time as long as the difference remains.
//
// The values of all [Secrets] differ in length: libvirt encrypts them, and the length of the result
// identifies the secret.
package diskgen
