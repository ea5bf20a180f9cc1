// Package blockgraph builds the QEMU objects, block nodes and device that make up a libvirt
// disk, and orders them into a plan.
//
// # The three forms of a disk
//
// A [Disk] holds the content of a libvirt <disk>. Package diskxml reads one from XML, or a
// program fills in its fields. [Build] returns the [Graph] that QEMU needs for it: secret
// objects, block nodes from the protocol layer upwards, and one frontend device.
// [Graph.Plan] orders the graph into a [Plan]: one QMP command a step, each step with the
// command that undoes it.
//
//	<disk> ── diskxml.ParseDisk ──> Disk ── Build ──> Graph ── Plan ──> Plan
//	                                          ↑
//	                             Machine: the known facts about the VM
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
// Each kind of source and each protocol has its own file, such as source_nbd.go, with the
// mapping from XML to QEMU's options. An explicit <backingStore> is a chain of images; each
// may be on any source, be a slice of it, and be encrypted with its own secret. [Role]
// documents the names of their nodes. A <header> also applies to the backing layers: a LUKS
// node over a qcow2 image decrypts what that image shows.
//
// [Disk.Translate] replaces the volumes of storage pools.
//
// # Errors
//
// [*InvalidError] means that values are wrong or contradict each other,
// [*UnsupportedError] that they are valid for libvirt and not supported here, and
// [*PlacementError] that the VM has no place for the device. All three name the
// element or the disk; match them by type. A caller can handle the causes
// [ErrUnknownPool] and [ErrNoDescriptors].
//
// # Purity
//
// Nothing in this package does I/O, or depends on a clock, randomness or the environment. A
// plan has a [SecretData] in place of each secret value; it names the secret and always
// prints as "[redacted]". All functions are safe for concurrent use, and no value changes
// after it was returned.
//
// # Names
//
// Node names and object ids begin with "luksplug-<target>-", the device id is
// "luksplug-<target>" unless the XML gives a user alias. The names follow from
// the disk's target alone, so that a later run recognises them.
package blockgraph
