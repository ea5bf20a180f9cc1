package blockgraph_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// TestRecordedDevicesAreThoseOfThePlan: a recorded device has a driver and properties that
// a plan of the disk has, with its values; only a place that the XML leaves open may differ.
func TestRecordedDevicesAreThoseOfThePlan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, target, inside string
		index                int // of the changed device
		member               string
		value                any
		want                 string // in the error, "" for none
	}{
		{"another port", "dev='vdb'", "", 0, "bus", "pci.9", ""},
		{"another slot", "dev='vdb'", "", 0, "addr", "0x1f.0x7", ""},
		{"a foreign driver", "dev='vdb'", "", 0, "driver", "vfio-pci", `driver "vfio-pci"`},
		{"the driver of another bus", "dev='vdb'", "", 0, "driver", "scsi-hd", `driver "scsi-hd"`},
		{"the driver of another model", "dev='vdb'", "", 0, "driver", "virtio-blk-pci-transitional", "driver"},
		{"a foreign property", "dev='vdb'", "", 0, "host", "0000:01:00.0", `property "host"`},
		{"a file of the host", "dev='vdb'", "", 0, "romfile", "/etc/shadow", `property "romfile"`},
		{"a property of other XML", "dev='vdb'", "", 0, "share-rw", true, `property "share-rw"`},
		{"another serial", "dev='vdb'", "<serial>one</serial>", 0, "serial", "two", `serial="two"`},
		{"another type", "dev='vdb'", "<serial>1</serial>", 0, "serial", 1, "serial=1"},
		{"a bus with a comma", "dev='vdb'", "", 0, "bus", "pci.9,x=y", "invalid place bus"},
		{"a bus that is an object", "dev='vdb'", "", 0, "bus", blockgraph.Object{{Name: "a", Value: "b"}}, "invalid place bus"},
		{"an address with more", "dev='vdb'", "", 0, "addr", "0x0,romfile=/x", "invalid place addr"},
		{"another slot than that of the XML", "dev='vdb'", "<address type='pci' domain='0' bus='4' slot='0' function='0'/>", 0, "addr", "0x1", `addr="0x1"`},
		{"another unit", "dev='sdb'", "", 1, "lun", 7, ""},
		{"a unit that is none", "dev='sdb'", "", 1, "lun", "7", "invalid place lun"},
		{"another unit than that of the XML", "dev='sdb'", "<address type='drive' controller='0' bus='0' target='0' unit='3'/>", 0, "lun", 4, "lun=4"},
		{"a foreign controller", "dev='sdb'", "", 0, "driver", "vfio-pci", "no controller"},
		{"a foreign property of the controller", "dev='sdb'", "", 0, "iothread", "iothread1", `property "iothread"`},
	} {
		disk := blocktest.Parse(t, blocktest.DiskAt(c.target, c.inside))
		m := blockgraph.Machine{Type: "q35", Ports: []blockgraph.Port{{Bus: "pci.4"}, {Bus: "pci.7"}}}
		if strings.Contains(c.inside, "drive") {
			m = blockgraph.Machine{}
		}
		devices := recorded(t, blocktest.Build(t, disk, m, blockgraph.Unlock{}))
		if _, err := blockgraph.Build(disk, blockgraph.Machine{Devices: devices}, blockgraph.Unlock{}); err != nil {
			t.Fatalf("%s, before the change: %v", c.name, err)
		}
		devices[c.index] = devices[c.index].With(c.member, c.value)
		_, err := blockgraph.Build(disk, blockgraph.Machine{Devices: devices}, blockgraph.Unlock{})
		var refused *blockgraph.PlacementError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want ...%s...", c.name, err, c.want)
		}
	}
}

// TestRecordedDevicesOfAnyDisk: the devices of every plan are accepted from a record, also
// without a property that an earlier version has not set.
func TestRecordedDevicesOfAnyDisk(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		disk, _, plan := blocktest.AnyPlan(rt)
		devices := recorded(t, plan.Graph)
		last := len(devices) - 1
		if i := rapid.IntRange(0, len(devices[last])-1).Draw(rt, "missing"); !slices.Contains([]string{"driver", "id", "drive", "chardev", "lun", "channel"}, devices[last][i].Name) {
			devices[last] = devices[last].Without(devices[last][i].Name)
		}
		g := blocktest.Build(rt, disk, blockgraph.Machine{Devices: devices}, blockgraph.Unlock{})
		for i, d := range g.Devices {
			if d.Options.String() != devices[i].String() {
				rt.Errorf("got %s, want %s", d.Options, devices[i])
			}
		}
	})
}
