// Command bench measures what luksplug adds to the time that QEMU itself takes,
// and prints one table. `make bench` runs it; docs/performance.md explains the
// rows.
//
// Each row compares two ways to do the same to the same QEMU in the same run.
// They take turns, and which one goes first alternates, so that a machine that
// gets slower or faster hits both alike; the figures are medians. Nothing here
// fails because a figure is bad: times depend on the machine, and the table
// says what is wanted beside what is.
//
// The volumes have headers with as little key derivation as cryptsetup makes,
// or QEMU's own time would hide everything else.
//
// With -stall, as `make bench-stall` runs it, it measures that time instead, of a
// header as QEMU makes it by default: for how long a monitor and a guest stand
// still while a disk is attached by virsh, by QMP and by luksplug. In the guest,
// command gaps finds that out.
package main
