// Package inventory reads what exists in a QEMU: its block nodes, objects, devices and
// descriptor sets ([Read]), which of them belong to luksplug's disks ([State.Disks]), and
// where another disk can be plugged ([Machine]).
//
// All of it is read by queries, which change nothing. The names of nodes and objects
// identify their disk; see package blockgraph.
package inventory
