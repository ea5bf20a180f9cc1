// Package hotplug plugs encrypted disks into a running QEMU and takes them out
// again, so that a disk is either there completely or not at all.
//
// # A VM
//
// [Connect] opens a [VM] through a function that dials its monitor: the
// package dials again by itself when the connection is lost while something is
// half done. One VM value serves one goroutine at a time; several processes
// keep out of each other's way by a lock file a VM, taken by each operation
// that changes something.
//
//	vm, err := hotplug.Connect(ctx, dial, hotplug.Options{})
//	...
//	defer vm.Close()
//	attached, err := vm.Attach(ctx, disk, store)
//
// # Attach
//
// [VM.Attach] looks at the VM, clears what an interrupted run left of the same
// disk, builds and checks the plan (nothing has been changed up to here, except
// for that clearing), applies it step by step, and verifies by query that all
// of it is there.
//
// A step has three outcomes. Done and failed are QEMU's words. Unknown is a
// time-out or a lost connection: the executor then queries QEMU for what exists, and
// never assumes. After a failure the steps that were done are taken back in
// reverse order under a context of their own, so that a cancelled caller does
// not leave half a disk behind, and a last query tells what could not be
// removed.
//
// # Detach
//
// [VM.Detach] asks the guest to release the device, waits, and only then
// removes the nodes: a guest that still writes must not lose its disk.
//
// # No database
//
// What belongs to luksplug is told by its names in QEMU (see package
// blockgraph), so [VM.List], [VM.Detach] and [VM.Repair] work after a crash, on
// another machine's monitor connection, or for a disk that another version of
// the program attached.
//
// # Errors
//
// The type of an error says what state the VM is in: [PreflightError] and
// [VersionError] mean that nothing was changed, [RolledBackError] that all
// changes were taken back, [LeftBehindError] names what is left,
// [PendingError] that the guest has not let go yet.
package hotplug
