// Package peer starts the real programs that luksplug is tested against: QEMU
// with a small Linux guest, a proxy that makes a monitor fail at a chosen
// place, LUKS volumes made by other people's tools, a private libvirtd, and
// older versions of QEMU.
//
// A test that believes a mock proves what its author thought QEMU does. Here
// the guest is a real kernel that writes through a real virtio or SCSI driver,
// and the volumes are made and read back by cryptsetup and qemu-img, which
// share no code with luksplug.
//
//	q := peer.Start(t, peer.Options{RootPorts: 2, Guest: true})
//	v := peer.NewVolume(t, peer.DetachedRaw)
//	before, _ := q.State(ctx)
//	...            // the tool under test plugs v into q.Socket
//	dev, _ := q.Guest().WaitDisk(ctx, "serial")
//	_ = q.Guest().WritePattern(ctx, dev, 8, 1, []byte("abc"))
//	...            // the tool under test unplugs it
//	after, _ := q.State(ctx)
//	// before.Diff(after) is empty, and v.ReadThrough(ctx, ...) shows the pattern
//
// # Lifetime
//
// Every process is tied to the process that started it by PR_SET_PDEATHSIG,
// so that a test binary that crashes or is killed leaves nothing running. A
// function that takes a [testing.TB] cleans up by itself; the twin that takes a
// context and a folder ([Run], [CreateVolume]) is for programs, and its result
// has a Close where there is something to close.
//
// # Cache
//
// What is slow to obtain (the guest's kernel, other QEMU versions) is kept in
// the folder that [CacheDir] names. Each entry is built beside its final name
// and renamed, under a file lock, so that test packages that run at the same
// time share it.
package peer
