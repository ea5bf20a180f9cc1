// Package peer starts the real programs that luksplug is tested with: QEMU with a small Linux guest, a proxy
// that makes a monitor fail at a chosen step, LUKS volumes made by other programs, a private libvirtd,
// storage servers, key managers, and older versions of QEMU.
//
// A mock would only show what the author of a test believes about QEMU. Here the guest is a real kernel that
// writes through a real virtio or SCSI driver, and the volumes are made and read back by cryptsetup and
// qemu-img, which share no code with luksplug.
//
//	q := peer.Start(t, peer.Options{RootPorts: 2, Guest: true})
//	v := peer.NewVolume(t, peer.DetachedRaw)
//	before, _ := q.State(ctx)
//	...            // the tool under test attaches v over q.Socket
//	dev, _ := q.Guest().WaitDisk(ctx, "serial")
//	_ = q.Guest().WritePattern(ctx, dev, 8, 1, []byte("abc"))
//	...            // the tool under test detaches it
//	after, _ := q.State(ctx)
//	// before.Diff(after) is empty, and v.ReadThrough(ctx, ...) shows the pattern
//
// # Lifetime
//
// PR_SET_PDEATHSIG ties every process to the process that started it: a test binary that crashes or is killed
// leaves nothing running. A function that takes a [testing.TB] cleans up by itself. The variant that takes a
// context and a directory ([Run], [CreateVolume]) is for programs; its result has a Close if it needs one.
//
// # Cache
//
// Files that are slow to obtain (the guest's kernel, other versions of QEMU) are kept in the directory
// [CacheDir]. An entry gets its final name when it is complete, under a file lock, so that test packages that
// run at the same time share it.
package peer
