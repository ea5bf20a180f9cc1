// Package daemon runs a qemu-storage-daemon beside a VM, and ties its life to
// that of a disk.
//
// QEMU unlocks a LUKS header in its main loop, and the guest stands still for
// that long. A detached or leading header can be unlocked outside of QEMU and
// replaced by a cheap one; one inside a qcow2 image cannot. Such an image is
// opened by a daemon of its own, which unlocks it at its leisure and exports the
// plain disk by NBD, over a unix socket, to the VM's QEMU alone:
//
//	d, err := daemon.Start(ctx, daemon.Options{Dir: "/run/luksplug/vm1-vdb", User: user})
//	...
//	defer d.Close()
//	// d.Client() takes the secret, the nodes, and object-del of the secret
//	err = d.Export(ctx, daemon.Export{Node: "disk", Name: "vdb", Writable: true})
//	// the VM's node: driver nbd, server.path d.Socket(), export "vdb"
//
// What is exported, and by which nodes, is the caller's affair. A daemon serves
// as well to read an image that only QEMU's block drivers reach (ssh, iscsi, rbd).
//
// # Reservations
//
// A QEMU that is not root leaves SCSI persistent reservations to a qemu-pr-helper.
// [StartHelper] runs one, with a folder as a storage daemon has it.
//
// # The folder
//
// A daemon has a folder, and the folder is the daemon's name: [Open], [Inspect],
// [Stop] and [Watch] find a daemon by it, from any process and without a
// database. It holds the monitor's socket, the NBD socket, what the daemon
// writes to its standard error, and daemon.json, which names the process. The
// folder must be private, and all of it goes when the daemon is stopped. It
// belongs on a tmpfs such as /run: what daemon.json says is of no use after a
// reboot.
//
// Anybody who may enter the folder may read the disk in clear. That is the user as
// whom the daemon runs, who should be the user as whom the VM's QEMU runs
// ([Credential]), and root.
//
// # The process
//
// The daemon outlives the program that started it. It has a session of its own,
// no terminal, no descriptor of the caller's, a minimal environment and the
// working folder "/"; it leaves no core file. No secret is among its arguments:
// secrets reach it through its monitor only. It stays in the control group of its
// starter: a service manager that ends a service with all its processes ends the
// daemon too (systemd.kill(5), KillMode).
//
// It does not end by itself when the VM ends: [Watch] sees to that, in a process
// or goroutine of the caller's that waits for either to end.
//
// A process is told from a later one of the same number by the time at which it
// started, and signals go through a pidfd. A folder can be written by the
// daemon's user, so that root does not take its word for what to kill: only a
// process that runs as the folder's owner is ever signalled.
//
// A monitor serves one client at a time. While a [Daemon] is held, [Open] of the
// same folder waits in vain; Inspect, Stop and Watch do without the monitor. The
// daemon flushes and closes its images in the same way when it gets SIGTERM as
// when it is told to quit.
//
// The package is for Linux 5.11 and later (pidfd_open(2), close_range(2)). The
// daemon is described in qemu-storage-daemon(1), its monitor in QEMU's
// storage-daemon QMP reference.
package daemon
