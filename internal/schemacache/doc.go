// Package schemacache provides the schema of a running QEMU without querying it.
//
// The command query-qmp-schema describes all commands of a QEMU, which is what luksplug checks its plans
// against. But its answer takes QEMU some 50 ms to write, in the main loop: for that time the guest's timers
// and disks stop. The answer depends on the program file alone, so there are two better places to get it
// from. [Cache] is a [qmp.SchemaSource] that looks in this order, and a client that uses it queries its QEMU
// only after both:
//
//  1. a directory of earlier answers: 4 ms, most of them for parsing;
//  2. the same program, started aside without a machine: 100 ms in
//     another process, which no guest notices.
//
// Set up for a QEMU on this machine, whose monitor is a unix socket:
//
//	dir, err := schemacache.DefaultDir()
//	...
//	cache := &schemacache.Cache{Dir: dir, Report: func(err error) { log.Print(err) }}
//	client, err := qmp.Dial(ctx, "/run/vm1/qmp.sock", qmp.WithSchemaSource(cache))
//
// # What an answer is filed under
//
// QEMU's full version with the distributor's package, the architecture that it emulates, and the device,
// inode, owner, size and times of the program file. Where neither the process nor the emulator's path is
// known, as over TCP, the monitor's address stands in for the file: what a peer claims about itself is not
// used for other peers. A version without a package, which a program built by hand has, does not identify a
// build: without a file nothing is kept.
//
// A VM that was started with -compat hides commands that another QEMU of the same file shows. Its schema is
// taken for larger than it is, and QEMU itself refuses what it hides.
//
// # Trust
//
// A schema decides what is sent to QEMU, and a program that is started aside has
// all rights of the caller, often root's. So both must come from a trusted owner:
//
//   - The directory and its files must belong to the caller or to root, and no
//     other user may be able to write them. Files carry a checksum and what they were
//     filed under. Anything else is ignored, and a file is written anew.
//   - A program is run only if its file belongs to the caller or to root, no
//     other user can write it, its name begins with "qemu" or "kvm", and its file
//     system is not mounted nosuid: on such a file system the owners of files may be
//     set by the user who mounted it. The program of a process must be the file that
//     its path names here as well, which rules out another container's root. It is
//     opened once, and the file that was checked is the one that runs.
//
// The cache never makes a command fail: what does not work is reported to
// [Cache.Report], and the client queries its QEMU.
//
// The package is for Linux.
package schemacache
