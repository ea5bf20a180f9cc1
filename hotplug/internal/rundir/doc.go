// Package rundir is the run directory: everything that luksplug keeps on this host,
// in memory, for the disks of running VMs. There is one directory per VM, named by
// the VM's identity:
//
//	TARGET.json   the note of an attached disk: what QEMU does not know of it
//	TARGET/       files handed to the VM's QEMU, whose user owns the directory; or
//	              the storage daemon or reservation helper of the disk
//	TARGET.sock   the socket of a reservation helper
//	TARGET.read/  a storage daemon that reads an image for luksplug
//	arrival       where a VM comes from that is about to start
//
// A copy of a volume that no VM has is there too, as if it were a VM named copy-PID-START-RANDOM
// by the process that makes it: see [Base.Copy].
//
// Other users may pass through a VM's directory, since QEMU may be another user,
// but not list it. Lock files are in a directory of their own, see [LockFileOf].
//
// Only root and the user that runs luksplug can change these directories, except for
// TARGET/, which is QEMU's: [BaseOf], [VM.Check] and [LockFileOf] refuse others.
package rundir
