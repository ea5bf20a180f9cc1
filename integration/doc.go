// Package integration holds the tests that run luksplug against the real
// thing: QEMU with a Linux guest, libvirtd, and QEMU's own tools as the judge of
// what was written. Package integration/internal/peer starts them.
//
// Every test starts its own peers and stops them, and runs beside the others.
// The tool under test is the program itself, built once for all tests.
package integration
