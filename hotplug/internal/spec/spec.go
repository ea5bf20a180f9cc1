// Package spec describes how a disk is attached, in addition to its XML.
package spec

import "github.com/luksplug/luksplug/blockgraph"

// Spec is used to attach a disk to a running VM, to start a VM with it, and to record it
// in a domain. The zero value suits most disks.
type Spec struct {
	// Devices are the disk's earlier devices, so that it is plugged at the same address,
	// see [blockgraph.Machine]; nil selects a free address.
	Devices []blockgraph.Object
	// AllowSharedHeader allows a detached header that another disk uses already. Both
	// payloads then have the same key: equal sectors of the two images are recognisable.
	AllowSharedHeader bool
	// TrustImageChain lets QEMU open the backing and data files that images name and the
	// XML does not. An image's writer then chooses files of the VM's host, which the
	// guest can read.
	TrustImageChain bool
	// AllowGuestHeader allows a raw image without encryption, or a data store, that begins
	// with a header of LUKS or of an image format, which its guest has written. The XML has to
	// state the format.
	AllowGuestHeader bool
	// AllowPayloadSignature allows a payload under a detached header that has the signature
	// of a file system, partition table or other plain data: ciphertext can have one by
	// chance.
	AllowPayloadSignature bool
	// Relabel gives images that the XML names, and that the VM's QEMU may not open, to its
	// user, and its SELinux label, for as long as they are attached; see package access.
	Relabel bool
}
