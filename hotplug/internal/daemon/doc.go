// Package daemon runs a qemu-storage-daemon next to a VM's QEMU, for one disk.
//
// QEMU unlocks a LUKS header in its main loop, and the guest stalls meanwhile. A
// detached or leading header can be unlocked outside of QEMU and replaced by a cheap one;
// a header inside a qcow2 image cannot. A storage daemon opens such an image instead, and
// exports the plain disk by NBD, over a unix socket, to the VM's QEMU alone:
//
//	d, err := daemon.Start(ctx, daemon.Options{Dir: "/run/luksplug/vm1-vdb", User: user})
//	...
//	defer d.Close()
//	// d.Client() takes the secret, the nodes, and object-del of the secret
//	err = d.Export(ctx, daemon.Export{Node: "disk", Name: "vdb", Writable: true})
//	// the VM's node: driver nbd, server.path d.Socket(), export "vdb"
//
// A daemon can also read an image that only QEMU's block drivers reach (ssh, iscsi, rbd).
//
// [StartHelper] runs a qemu-pr-helper in the same way: a QEMU that is not root needs it for
// SCSI persistent reservations.
//
// # The directory
//
// A daemon has a directory, by which [Open], [Inspect], [Stop] and [Watch] find it from any
// process. It holds the monitor's socket, the NBD socket, the daemon's standard error, and
// daemon.json, which names the process. It must be private, and is removed when the daemon
// is stopped. It belongs on a tmpfs such as /run, because daemon.json has no meaning after
// a reboot.
//
// The directory gives access to the plain text of the disk, to root and the user that the
// daemon runs as, who should be that of the VM's QEMU ([Credential]).
//
// # The process
//
// The daemon outlives the program that started it, unless it is tied to it. It has a session of its own, no
// terminal, none of the caller's descriptors, a minimal environment and the working
// directory "/", and it leaves no core file. Secrets reach it through its monitor only. It
// stays in its starter's control group: a service manager that ends a service with all its
// processes ends the daemon too (systemd.kill(5), KillMode).
//
// It does not end by itself when the VM ends: [Watch] waits for either to end.
//
// A process is identified by its number and start time, and signalled through a pidfd. The
// daemon's user can write to the directory, so root does not trust daemon.json: it signals
// only processes that run as the directory's owner.
//
// A monitor serves one client at a time. While a [Daemon] is open, [Open] of the same
// directory waits until its context ends; Inspect, Stop and Watch do not use the monitor.
// On SIGTERM the daemon flushes and closes its images just as it does on quit.
//
// The package needs Linux 5.11 (pidfd_open(2), close_range(2)). See qemu-storage-daemon(1)
// and QEMU's storage-daemon QMP reference.
package daemon
