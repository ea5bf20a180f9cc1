package guestagent

import (
	"context"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
)

// Place is what QEMU knows of a disk that an agent reports as well.
type Place struct {
	Serial string
	// PCI is the address, by the guest's numbers of buses, of the device or of its SCSI controller; nil if it is
	// not known.
	PCI *inventory.PCIFunction
	// SCSI is true for a disk on a SCSI controller, with its Channel, Target and LUN.
	SCSI                 bool
	Channel, Target, LUN int
}

// PlaceOf queries QEMU for the place of an attached disk. It changes nothing.
func PlaceOf(ctx context.Context, q monitor.Querier, disk *inventory.AttachedDisk) (Place, error) {
	f, err := inventory.FrontendOf(ctx, q, disk.Device)
	if err != nil {
		return Place{}, err
	}
	out := Place{Serial: f.Serial}
	owner := ""
	switch {
	case strings.HasPrefix(disk.Driver, "virtio-blk"), strings.HasPrefix(disk.Driver, "vhost-user-blk"):
		owner = disk.Device
	case strings.HasPrefix(disk.Driver, "scsi-") && f.SCSI != nil:
		out.SCSI, out.Channel, out.Target, out.LUN = true, f.SCSI.Channel, f.SCSI.Target, f.SCSI.LUN
		owner = f.Parent
	}
	if owner == "" {
		return out, nil
	}
	functions, err := inventory.PCIFunctions(ctx, q)
	if err != nil {
		return Place{}, err
	}
	if at, known := functions[owner]; known {
		out.PCI = &at
	}
	return out, nil
}

// Has reports whether the disk that the agent describes is at this place. An address decides where both sides have
// one, else the serial: a guest sees it behind the name of the bus and the model, or cut.
func (p Place) Has(d Disk) bool {
	at := d.Controller
	if p.PCI != nil && at.Bus >= 0 && at.Slot >= 0 && at.Function >= 0 {
		if at.Domain > 0 || (inventory.PCIFunction{Bus: at.Bus, Slot: at.Slot, Function: at.Function}) != *p.PCI {
			return false
		}
		return !p.SCSI || d.Bus == p.Channel && d.Target == p.Target && d.Unit == p.LUN
	}
	return sameSerial(p.Serial, d.Serial)
}

// sameSerial reports whether the serial of a disk is the one that a guest reports for it.
func sameSerial(ours, theirs string) bool {
	if ours == "" || theirs == "" {
		return false
	}
	// udev writes "_" for spaces, and libvirt "\ ", see package blockgraph.
	plain := strings.NewReplacer(`\ `, "_", " ", "_")
	ours, theirs = plain.Replace(ours), plain.Replace(strings.TrimSpace(theirs))
	const virtio = 20 // bytes of a serial in a virtio device (VIRTIO_BLK_ID_BYTES, virtio 1.2, 5.2.6)
	short := ours[:min(len(ours), virtio)]
	return theirs == ours || theirs == short || strings.HasSuffix(theirs, "_"+ours) // ID_SERIAL of a SCSI or USB disk
}

// On returns the file systems that are, at least partly, on the disk at a place.
func On(p Place, all []FileSystem) []FileSystem {
	var out []FileSystem
	for _, f := range all {
		for _, d := range f.Disks {
			if p.Has(d) {
				out = append(out, f)
				break
			}
		}
	}
	return out
}
