// Package reencrypt gives a disk a new data key: it copies the disk to a new volume, while a VM uses it or not.
//
//	prepared, err := reencrypt.Prepare(ctx, reencrypt.Request{Disk: xml, Size: size, ...})
//	entry, err := prepared.Start(ctx, setting)          // the job runs in QEMU, also without this process
//	err = setting.Wait(ctx, entry, ...)                 // until the volumes are in step
//	done, err := setting.Finish(ctx, entry)             // the disk uses the new volume
//	err = setting.DiscardOld(ctx, done)
//
// # What a crash leaves
//
// Each step is recorded in a [Journal] on the host before it is taken, and the new volume has a mark in its header
// (luks.ErrIncomplete) from before the first byte is copied. So it is known at any time which volume is complete:
//
//	phase       the old volume   the new volume                      what refers to the disk
//	preparing   complete         empty                               the old one
//	copying     complete         marked: nothing opens it            the old one
//	switching   complete         as the old one; the mark goes       moves to the new one
//	switched    out of date      complete                            the new one
//
// While both are in step, QEMU completes a write of the guest when both volumes have it. In that time the mark is removed,
// and then what refers to the disk is moved, before QEMU is told to use the new volume. So if QEMU dies, the volume that is referred to has
// all writes that were completed. [Setting.Resume] asks QEMU, or if that has ended the header of the new volume, and goes on from
// there.
//
// # Keys
//
// The new volume keeps the secret of the old one, or gets a new one, which is stored before the volume is made. No key is
// removed before [Setting.DiscardOld].
package reencrypt
