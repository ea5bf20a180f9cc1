// Package reencrypt gives a disk a new data key: it copies the disk to a new volume, while a VM uses it or not.
//
//	prepared, err := reencrypt.Prepare(ctx, reencrypt.Request{Disk: xml, Size: size, ...})
//	entry, err := setting.Start(ctx, prepared)          // the job runs in QEMU, also without this process
//	err = setting.Wait(ctx, reencrypt.Waiting{})        // until the volumes are in step
//	done, switched, err := setting.Finish(ctx, entry)   // the disk uses the new volume
//	err = setting.DiscardOld(ctx, done)
//
// # What a crash leaves
//
// Each step is recorded in a [Journal] on the host before it is taken, and the new volume has a mark in its header
// (luks.ErrIncomplete), or as an attribute of the file of an image without encryption, from before the first byte is copied. So
// it is known at any time which volume is complete:
//
//	phase       the old volume   the new volume                      what refers to the disk
//	preparing   complete         empty                               the old one
//	copying     complete         marked: nothing opens it            the old one
//	switching   gets the mark    as the old one; the mark goes       moves to the new one
//	switched    out of date      complete                            the new one
//
// While both are in step, QEMU completes a write of the guest when both volumes have it. In that time the old volume gets the mark,
// what refers to the disk is moved, and the new volume loses its mark, in this order, before QEMU is told to use the new volume. So
// there is no time at which both volumes could be attached, and if QEMU dies, the volume without the mark has all writes that were
// completed. [Setting.Resume] asks QEMU, or if that has ended the marks of both volumes, and goes on from there.
//
// # Names
//
// After the switch the files of the old volume are renamed to NAME.old, so that no document attaches it by mistake. In place
// ([Request.InPlace]) the files of the new one then get the names of the old one, with these steps:
//
//	step  what is done                                               a crash after it leaves
//	1     the journal has all names, old and new                     references to the new volume by its first names
//	2     NAME is renamed to NAME.old, a header before the payload   the same; there is no NAME
//	3     the new files are renamed to NAME                          references to names that are gone
//	4     the note on the host maps QEMU's names to these            the same; luksplug finds the disk in the VM by NAME
//	5     the references move to NAME                                references to NAME
//	6     the journal has the files under their last names           nothing to do
//
// No file is ever replaced, and each rename is stored before the next one. A VM that starts between steps 3 and 5 finds no file: it
// starts with no wrong one. [Setting.Resume] finds by the names which rename was the last one, and goes on with the next one. QEMU
// keeps the first names for ever. Its nodes keep their open files, because they are built without auto-read-only, see
// blockgraph.BuildRenamedCopy.
//
// # Keys
//
// The new volume keeps the secret of the old one, or gets a new one, which is stored before the volume is made. No key is
// removed before [Setting.DiscardOld].
package reencrypt
