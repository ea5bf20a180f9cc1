// Package schemacache provides the schema of a running QEMU without querying it: query-qmp-schema holds up QEMU's
// main loop, and with it the guest, for some 50 ms. [Cache] is a [qmp.SchemaSource] that searches in this order:
//
//  1. a directory of earlier answers: 4 ms, most of them for parsing;
//  2. the same program, started aside without a machine: 100 ms in another process, which no guest notices.
//
// # The key of an answer
//
// QEMU's full version with the distributor's package, the architecture that it emulates, and the device, inode,
// owner, size and times of the program file, on which alone the answer depends. Where neither the process nor the
// emulator's path is known, as over TCP, the monitor's address replaces the file: what a peer claims about itself
// is not used for other peers. A version without a package, which a program built by hand has, does not identify a
// build: without a file nothing is kept.
//
// A VM that was started with -compat hides commands that another QEMU of the same file shows: QEMU itself refuses
// them.
//
// # Trust
//
// A schema decides what is sent to QEMU, and a program that is started aside has all rights of the caller, often
// root's. So both must come from a trusted owner:
//
//   - The directory and its files must belong to the caller or to root, and no other user may be able to write
//     them. Files have a checksum and their key. Anything else is ignored and rewritten.
//   - A program is run only if its file belongs to the caller or to root, no other user can write it, its name
//     begins with "qemu" or "kvm", and its file system is not mounted nosuid: on such a file system the user who
//     mounted it may have set the owners of files. The program of a process must be the file that its path names
//     here as well, which rules out another container's root. It is opened once, and the file that was checked is
//     the one that runs.
//
// The cache never makes a command fail: it reports a failure to [Cache.Report], and the client queries its QEMU.
package schemacache
