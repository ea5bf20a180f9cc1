package foreign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// Properties are properties of a device, by their names in QEMU. Values are texts, numbers
// (float64) and booleans.
type Properties map[string]any

// usual are the values of the properties of most devices. A device that lacks a property has
// none of another value.
var usual = Properties{
	"share-rw": false, "logical_block_size": 512.0, "physical_block_size": 512.0, "wwn": 0.0,
	"bootindex": -1.0, "werror": "auto", "rerror": "auto", "write-cache": "auto", "iothread": "",
}

// kept are properties that the derived XML has, in which a guest may not see a change after a
// restore.
var kept = []string{"num-queues", "queue-size"}

func readProperties(ctx context.Context, q monitor.Querier, device string) (Properties, error) {
	names := append([]string{}, kept...)
	for name := range usual {
		names = append(names, name)
	}
	var commands []qmp.Command
	for _, name := range names {
		commands = append(commands, monitor.QOMGet(inventory.Peripheral+device, name))
	}
	out := Properties{}
	for i, r := range q.QueryEach(ctx, commands...) {
		var refused *qmp.Error // for a device without this property
		if r.Err != nil && !errors.As(r.Err, &refused) {
			return nil, fmt.Errorf("query device %s: %w", device, r.Err)
		}
		var value any
		if r.Err == nil && json.Unmarshal(r.Value, &value) == nil {
			out[names[i]] = value
		}
	}
	return out, nil
}

// differs describes a property with another value than usual, "" for none.
func (p Properties) differs(name string) string {
	if value, there := p[name]; there && value != usual[name] {
		return fmt.Sprintf("%s=%v", name, value)
	}
	return ""
}

// refused describes a property that neither the derived XML nor a guest can do without, "" for
// none.
func (p Properties) refused() string {
	for _, name := range []string{"share-rw", "logical_block_size", "wwn"} {
		if d := p.differs(name); d != "" {
			return d
		}
	}
	return ""
}

// Lost describes the properties that the derived XML does not have.
func (p Properties) Lost() []string {
	var out []string
	for _, name := range []string{"physical_block_size", "bootindex", "werror", "rerror", "write-cache", "iothread"} {
		if d := p.differs(name); d != "" {
			out = append(out, d)
		}
	}
	return out
}

// Number returns a property that is a number, 0 if the device lacks it.
func (p Properties) Number(name string) uint {
	n, _ := p[name].(float64) // 0 for another value
	return uint(n)
}

// Devices returns the device as the argument of device_add that puts luksplug's own device in
// its place, with the properties that a guest sees.
func (d *Disk) Devices(ctx context.Context, q monitor.Querier, target string) ([]blockgraph.Object, error) {
	frontend := &inventory.AttachedDisk{Device: d.Parts.Device}
	if err := inventory.AddFrontends(ctx, q, []*inventory.AttachedDisk{frontend}); err != nil {
		return nil, err
	}
	out := blockgraph.Object{{Name: "driver", Value: d.Driver}, {Name: "id", Value: blockgraph.Name(target, blockgraph.RoleDevice)}, {Name: "bus", Value: frontend.Bus}}
	if d.Driver == scsiDisk {
		var commands []qmp.Command
		names := []string{"channel", "scsi-id", "lun"}
		for _, name := range names {
			commands = append(commands, monitor.QOMGet(inventory.Peripheral+d.Parts.Device, name))
		}
		values, err := q.Query(ctx, commands...)
		if err != nil {
			return nil, fmt.Errorf("query device %s: %w", d.Parts.Device, err)
		}
		for i, name := range names {
			var n int64
			if err := monitor.Decode(values[i], &n, commands[i]); err != nil {
				return nil, err
			}
			out.Add(name, n)
		}
	} else {
		out.AddText("addr", frontend.Address)
		for _, name := range kept {
			out.AddNumber(name, d.Properties.Number(name))
		}
	}
	out.Add("drive", blockgraph.Name(target, d.Parts.Nodes[0].Role))
	out.AddText("serial", frontend.Serial)
	return []blockgraph.Object{out}, nil
}
