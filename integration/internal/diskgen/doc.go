// Package diskgen draws random disks, and the domains that they are for, as
// libvirt's XML: whatever blockgraph reads of a <disk>, in combinations that
// nobody would think of. What libvirt makes of such a disk, luksplug has to make
// of it, too; and what libvirt refuses, luksplug has to refuse.
//
//	Cases ── draws ──> Case ──┬── XML ────────────> a libvirtd: the arguments of QEMU
//	                          └── Context, DiskXML ──> blockgraph: the same
//
// Most cases are valid. Some are wild: in these a setting may stand where it does
// not belong, such as a rotation rate on a floppy drive, so that refusals are
// drawn as well. [Reduce] makes a case small that shows a difference: it takes off
// one element or attribute after the other for as long as the difference stays.
//
// Secrets are those of [Secrets], whose values all have another length: libvirt
// encrypts them, and the length of the result tells which one it is.
package diskgen
