// Package hotplug plugs encrypted disks into a running QEMU and takes them out
// again. After each operation the VM has either all of a disk or nothing of it, or
// the error names what is left.
//
// # A VM
//
// [Connect] opens a [VM] through a function that dials its monitor. The package
// dials again if the connection is lost while something is half done. A VM is used
// by one goroutine at a time. Several processes may work on one VM: each operation
// that changes something takes a lock file on this host.
//
//	vm, err := hotplug.Connect(ctx, dial, hotplug.Options{})
//	...
//	defer vm.Close()
//	attached, err := vm.Attach(ctx, disk, store, hotplug.AttachOptions{})
//
// Package libvirtvm does the same for a libvirt domain, and records the disk there.
//
// # Attach
//
// [VM.Attach] derives the key, locks the VM, compares the disk with what is attached
// under its target, plans and checks it, applies the plan step by step, and verifies
// it by query. Nothing is changed before the plan is applied, except that leftovers
// of an interrupted run of the same disk are removed.
//
// A step is done, failed, or, after a time-out or a lost connection, of unknown
// outcome: QEMU is then queried for what exists. After a failure the steps, and the
// changes of the host that belong to them, are taken back in reverse order, under a
// context of their own, also if the caller's is cancelled. A last query finds out
// what is left.
//
// # Detach
//
// [VM.Detach] asks the guest to release the device, waits, and only then removes the
// nodes: a guest that still writes must not lose its disk.
//
// # No database
//
// The names of nodes, objects and devices in QEMU say which disk they belong to (see
// package blockgraph). So [VM.List], [VM.Detach] and [VM.Repair] work after a crash,
// from another host, and for a disk that another version of luksplug has attached.
//
// # Errors
//
// The type of an error says what state the VM and the host are in:
// [PreflightError], [VersionError], [SecretError] and [LockedError] mean that nothing
// was changed, [RolledBackError] that everything was taken back, [LeftBehindError]
// that something is left, and what, [PendingError] that the guest has not released
// the device yet. A PreflightError has a cause, such as [ErrHeaderInUse], for
// [errors.Is]. docs/errors.md says what a program can do about each.
package hotplug
