// Package blockgraph works out the QEMU objects, block nodes and device that make
// up a libvirt disk, and orders them into a plan.
//
// # The three forms of a disk
//
// A [Disk] holds what a libvirt <disk> says. Package diskxml reads one from XML, or
// a program fills one in. [Build] works out the [Graph] that QEMU needs for it:
// secret objects, block nodes from the protocol layer upwards, and one frontend
// device. [Graph.Plan] orders the graph into a [Plan]: one QMP command a step, each
// step with the command that undoes it.
//
//	<disk> ── diskxml.ParseDisk ──> Disk ── Build ──> Graph ── Plan ──> Plan
//	                                          ↑
//	                             Machine: what is known of the VM
//
// Both Graph and Plan are plain values, and the same disk with the same machine
// always gives the same ones. Package render writes them as text, JSON, QEMU
// arguments, DOT, Mermaid and SVG. This package imports neither of the two.
//
// # The detached header
//
// libvirt has no syntax for a LUKS header that is not part of the image.
// [Encryption] has one: with a header the payload keeps its own format (raw or
// qcow2), and the LUKS node stands on top of both:
//
//	       device
//	         │
//	       luks ──── secret
//	      /    \
//	header   payload-format
//	  │          │
//	header-    payload-
//	storage    storage
//
// # Sources and chains
//
// Each kind of source and each protocol has a file of its own, source_nbd.go and
// so on, whose comment holds the mapping from XML to QEMU's options. An explicit
// <backingStore> is a chain of images; each may be on any source, be a slice of
// it, and be encrypted with a secret of its own. [Role] says how their nodes are
// named. A <header> covers what is below it, the backing layers as well: a LUKS
// node over a qcow2 image decrypts whatever that image shows.
//
// Volumes of storage pools are replaced by what the pool says that they are,
// see [Disk.Translate].
//
// # Errors
//
// [*InvalidError] means that values are wrong or contradict each other,
// [*UnsupportedError] that they are valid for libvirt and not supported here, and
// [*PlacementError] that the VM has no place for the device. All three name the
// element or the disk; match them by type. [ErrUnknownPool] and [ErrNoDescriptors]
// are causes that a caller can do something about.
//
// # Purity
//
// Nothing in this package does I/O, reads a clock, uses randomness or looks at
// the environment. A plan needs no secret value: where a value belongs, it
// holds a [SecretData], which names the secret and always prints as
// "[redacted]". All functions are safe for concurrent use, and no value is
// changed after it was returned.
//
// # Names
//
// Node names and object ids begin with "luksplug-<target>-", the device id is
// "luksplug-<target>" unless the XML gives a user alias. The names follow from
// the disk's target alone, so that a later run recognises its own work.
package blockgraph
