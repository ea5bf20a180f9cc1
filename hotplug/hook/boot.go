package hook

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// afterLibvirt is more than libvirt numbers by itself.
const afterLibvirt = 1000

// StartDisk returns a recorded disk as one that its domain starts with. doc is the
// domain's XML.
//
// Where the domain has <os><boot dev='...'/>, which libvirt adds by itself to one
// that says nothing of booting, libvirt numbers its own devices from 1 on, and QEMU
// refuses a number that two devices have. A disk of ours with the boot order 1 then
// goes before them, any other one after them.
func StartDisk(doc *domainxml.Document, r record.Disk) (coldstart.Disk, error) {
	disk, err := r.Parsed()
	if err != nil {
		return coldstart.Disk{}, err
	}
	d := coldstart.Disk{Disk: disk, Method: r.Start, Spec: r.Spec}
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
		return d, fmt.Errorf("disk %s: its recorded place in the boot order: %w", r.Target, err)
	}
	order += afterLibvirt
	if order == afterLibvirt+1 {
		order = 0
	}
	d.Devices = slices.Clone(d.Devices) // the record's
	d.Devices[last] = d.Devices[last].With(member, order)
	return d, nil
}
