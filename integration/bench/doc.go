// Command bench measures what luksplug adds to the time that QEMU itself takes, and prints one table. `make
// bench` runs it; docs/performance.md explains the rows.
//
// Each row compares two methods with the same QEMU in the same run. They take turns in alternating order, so
// that a machine that gets slower or faster affects both alike; the figures are medians. A bad figure is not
// an error, as times depend on the machine: the table shows the required figure next to the measured one.
//
// The headers of the volumes have the cheapest key derivation that cryptsetup makes; otherwise QEMU's own
// time would hide all else.
//
// With -stall, as `make bench-stall` runs it, it measures stalls instead, with a header as QEMU makes it by
// default: how long a monitor and a guest pause while a disk is attached by virsh, by QMP and by luksplug. In
// the guest, command gaps measures them.
package main
