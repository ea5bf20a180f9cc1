package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

const (
	// maxFrontends bounds the disks whose devices are queried. A QEMU may list any number of
	// disks, and each takes a query of its own.
	maxFrontends = 1024
	// frontendsAtOnce is the number of devices in one batch of queries.
	frontendsAtOnce = 32
)

// AddFrontends sets Bus, Address and Serial of attached disks, as far as QEMU has them.
func AddFrontends(ctx context.Context, q monitor.Querier, disks []*AttachedDisk) error {
	attached := slices.DeleteFunc(slices.Clone(disks), (*AttachedDisk).Leftover)
	for batch := range slices.Chunk(attached[:min(len(attached), maxFrontends)], frontendsAtOnce) {
		var commands []qmp.Command
		for _, d := range batch {
			for _, name := range []string{"parent_bus", "addr", "serial"} {
				commands = append(commands, monitor.QOMGet(Peripheral+d.Device, name))
			}
		}
		results := q.QueryEach(ctx, commands...)
		for _, r := range results {
			var refused *qmp.Error // for a device without this property
			if r.Err != nil && !errors.As(r.Err, &refused) {
				return r.Err
			}
		}
		for i, d := range batch {
			var bus string
			d.Bus, d.Address, d.Serial = "", "", ""
			devfn := -1
			property(results[3*i], &bus)
			property(results[3*i+1], &devfn)
			property(results[3*i+2], &d.Serial)
			if bus != "" {
				d.Bus = path.Base(bus)
			}
			if devfn >= 0 {
				d.Address = pciAddress(uint(devfn))
			}
		}
	}
	return nil
}

// Frontend is what QEMU has of a disk's device.
type Frontend struct {
	// Parent is the id of the device that has the bus of this one, "" for a bus of the machine.
	Parent string
	// Serial is the serial in the guest, "" for none.
	Serial string
	// SCSI is the address on a SCSI controller, nil for another bus.
	SCSI *SCSIAddress
}

// SCSIAddress is the address of a disk on a SCSI controller.
type SCSIAddress struct{ Channel, Target, LUN int }

// FrontendOf queries the device with that id.
func FrontendOf(ctx context.Context, q monitor.Querier, id string) (Frontend, error) {
	var commands []qmp.Command
	for _, name := range []string{"parent_bus", "serial", "channel", "scsi-id", "lun"} {
		commands = append(commands, monitor.QOMGet(Peripheral+id, name))
	}
	results := q.QueryEach(ctx, commands...)
	for _, r := range results {
		var refused *qmp.Error // for a device without this property
		if r.Err != nil && !errors.As(r.Err, &refused) {
			return Frontend{}, r.Err
		}
	}
	var out Frontend
	var bus string
	property(results[0], &bus)
	property(results[1], &out.Serial)
	out.Parent = Drive{Path: bus}.device()
	address := SCSIAddress{-1, -1, -1}
	property(results[2], &address.Channel)
	property(results[3], &address.Target)
	property(results[4], &address.LUN)
	if address.Channel >= 0 && address.Target >= 0 && address.LUN >= 0 {
		out.SCSI = &address
	}
	return out, nil
}

// property sets into to the value of a property, if the device has it in this form.
func property[T any](r qmp.Result, into *T) {
	var value T
	if r.Err == nil && json.Unmarshal(r.Value, &value) == nil {
		*into = value
	}
}

// pciAddress returns a slot and a function, which QEMU has in one number, in the form of
// device_add.
func pciAddress(devfn uint) string {
	out := fmt.Sprintf("0x%x", devfn/pciFunctions)
	if f := devfn % pciFunctions; f != 0 {
		out += fmt.Sprintf(".0x%x", f)
	}
	return out
}
