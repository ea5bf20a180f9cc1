package coldstart

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// afterLibvirt is greater than any boot order that libvirt assigns itself.
const afterLibvirt = 1000

// RecordedDisk returns a recorded disk as the one to start its domain with. doc is the
// domain's XML.
//
// If the domain has <os><boot dev='...'/>, which libvirt adds to a domain without boot
// settings, libvirt numbers its devices from 1, and QEMU refuses duplicate numbers. The
// disk then goes before libvirt's devices if its boot order is 1, and after them
// otherwise.
func RecordedDisk(doc *domainxml.Document, r record.Disk) (Disk, error) {
	disk, err := r.Parsed()
	if err != nil {
		return Disk{}, err
	}
	d := Disk{Disk: disk, Method: r.Start, Spec: r.Spec}
	if err := checkBootOrder(disk, d.Devices); err != nil {
		return Disk{}, err
	}
	if len(d.Devices) == 0 || doc.Attribute("dev", "os", "boot") == "" {
		return d, nil
	}
	const member = "bootindex"
	last := len(d.Devices) - 1
	index := d.Devices[last].Get(member)
	if index == nil {
		return d, nil
	}
	order, err := strconv.Atoi(fmt.Sprint(index))
	if err != nil {
		return d, fmt.Errorf("disk %s: its recorded boot order: %w", r.Target, err)
	}
	order += afterLibvirt
	if order == afterLibvirt+1 {
		order = 0
	}
	d.Devices = slices.Clone(d.Devices) // the record's
	d.Devices[last] = d.Devices[last].With(member, order)
	return d, nil
}

// checkBootOrder refuses a recorded boot order that is not that of the disk's XML.
func checkBootOrder(disk *blockgraph.Disk, devices []blockgraph.Object) error {
	if len(devices) == 0 {
		return nil
	}
	order := devices[len(devices)-1].Get("bootindex")
	if order == nil || disk.BootOrder > 0 && fmt.Sprint(order) == fmt.Sprint(disk.BootOrder) {
		return nil
	}
	return &blockgraph.PlacementError{Target: disk.Target, Reason: fmt.Sprintf("the recorded device has the property bootindex=%v, and the disk's XML gives %d", order, disk.BootOrder)}
}
