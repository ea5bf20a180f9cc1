// Package integration holds the tests that run luksplug against real programs: QEMU with a Linux guest,
// libvirtd, and QEMU's own tools, which check the written data. Package integration/internal/peer starts them.
//
// Every test starts and stops its own peers, and runs in parallel to the others. The tests run the luksplug
// program, which is built once for all of them.
package integration
