// Package hotplug plugs encrypted disks into a running QEMU and unplugs them. After each
// operation the VM has either the complete disk or nothing of it, or the error names what
// is left.
//
// # A VM
//
// [Connect] opens a [VM] through a function that dials its monitor. The package dials
// again if the connection is lost during an operation. A VM is not safe for concurrent
// use. Several processes may work on one VM: each operation that changes something takes
// a lock file on this host.
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
// A step is done, failed, or, after a time-out or a lost connection, of unknown outcome:
// QEMU is then queried for what exists. After a failure the steps and their changes of
// the host are undone in reverse order, under a context of their own, even if the
// caller's is cancelled. A last query finds out what is left.
//
// # Detach
//
// [VM.Detach] requests that the guest releases the device, waits, and removes the nodes
// only after that: a guest that still writes must not lose its disk.
//
// # Copy
//
// [VM.StartCopy] has QEMU copy an attached disk to another volume, and [VM.SwitchCopy] has the device use that one. QEMU copies
// by itself, so that each call is short and any later process continues.
//
// QEMU itself lets a VM be migrated or saved meanwhile, and aborts at the next write of the copy. So the first part of a copy is a
// node that blocks migration, "luksplug-vdb-copying" for vdb, and the last one that is removed: migrate, savevm, and libvirt's
// save, managedsave, migrate, dump and snapshot-create with memory are refused with its name. The VM can be migrated again when
// the copy was switched, canceled or, after an error of its own, ended ([VM.EndCopy]). Two things are not blocked. A migration
// in the mode cpr-reboot, which restarts QEMU on the same host, is one that no block driver blocks. And QEMU 10.0 and 11.1
// let another program add a second device to the block node of a disk that is being copied (device_add with its node as the drive):
// what the guest writes through that device is not copied, and is lost at the switch. Attach never does so.
//
// QEMU refuses by itself to resize, snapshot, back up or delete the nodes of the disk meanwhile, and VM.Resize and VM.Detach do.
//
// A disk's throttle filters and its copy-on-read node stay, above the new volume. The copy reads through them, so that the limits of a
// throttle group bound the guest and the copy together.
//
// # No database
//
// The names of nodes, objects and devices in QEMU identify their disk (see package
// blockgraph). So [VM.List], [VM.Detach] and [VM.Repair] work after a crash, from another
// host, and for a disk that another version of luksplug has attached.
//
// # Errors
//
// The type of an error tells the state of the VM and the host: after [PreflightError],
// [VersionError], [SecretError] and [LockedError] nothing was changed, after
// [RolledBackError] everything was undone; [LeftBehindError] names what is left, and
// [PendingError] means that the guest has not released the device yet. A PreflightError
// has a cause, such as [ErrHeaderInUse], for [errors.Is]. docs/errors.md lists what a
// program can do about each.
package hotplug
