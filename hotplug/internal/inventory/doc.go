// Package inventory says what exists in a QEMU: its block nodes, objects, devices
// and descriptor sets ([Read]), which of them belong to a disk that luksplug has
// attached ([State.Disks]), and where a further disk can go ([Machine]).
//
// All of it is read by queries, which change nothing. The names of nodes and
// objects say which disk they belong to; see package blockgraph.
package inventory
