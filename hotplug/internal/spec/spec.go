// Package spec says how a disk is attached, besides what its XML says.
package spec

import (
	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
)

// Spec attaches a disk to a running VM, starts a VM with it, and is recorded in a
// domain. The zero value is right for most disks.
type Spec struct {
	// Devices has the disk plugged where it was before, see
	// [blockgraph.Machine]; nil has a free place chosen.
	Devices []blockgraph.Object
	// AllowSharedHeader allows a detached header that another disk uses
	// already. Both payloads then have the same key: equal sectors of the two
	// images are recognisable.
	AllowSharedHeader bool
	// Relabel gives images that the VM's QEMU may not open to its user, and its
	// SELinux label, for as long as they are attached; see package access.
	Relabel bool
	// Owners are those of the images, as they were written down when they had been
	// given to QEMU's user before; nil for nothing.
	Owners []access.Owner
}
