package blockgraph_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// recorded returns the devices of a plan after a round trip through JSON.
func recorded(t *testing.T, g *blockgraph.Graph) []blockgraph.Object {
	t.Helper()
	var out []blockgraph.Object
	for _, d := range g.Devices {
		text, err := json.Marshal(d.Options)
		if err != nil {
			t.Fatal(err)
		}
		var o blockgraph.Object
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

func TestBuildGivesTheSameDevicesAgain(t *testing.T) {
	t.Parallel()
	q35 := blockgraph.Machine{Type: "q35", Ports: []blockgraph.Port{{Bus: "pci.4"}, {Bus: "pci.7"}}}
	for name, text := range map[string]string{
		"virtio":     blocktest.DiskAt("dev='vdb'", "<serial>one</serial>"),
		"controller": blocktest.DiskAt("dev='sdb'", "<iotune><total_bytes_sec>4096</total_bytes_sec></iotune>"),
		"alias":      blocktest.DiskAt("dev='vdb'", "<alias name='ua-data'/>"),
	} {
		disk := blocktest.Parse(t, text)
		first := blocktest.Build(t, disk, q35, blockgraph.Unlock{})
		// Another machine, with other free locations.
		again := blocktest.Build(t, disk, blockgraph.Machine{Type: "q35", Devices: recorded(t, first)}, blockgraph.Unlock{})
		for i, d := range again.Devices {
			if d.ID != first.Devices[i].ID || d.Role != first.Devices[i].Role || d.Options.String() != first.Devices[i].Options.String() {
				t.Errorf("%s: device %d is %+v, was %+v", name, i, d, first.Devices[i])
			}
		}
		if len(again.Devices) != len(first.Devices) || !reflect.DeepEqual(again.Throttling, first.Throttling) || !reflect.DeepEqual(again.Nodes, first.Nodes) {
			t.Errorf("%s: got %+v, want %+v", name, again, first)
		}
	}
}

func TestBuildRefusesDevicesOfAnotherDisk(t *testing.T) {
	t.Parallel()
	disk := blocktest.Parse(t, blocktest.DiskAt("dev='vdb'", ""))
	g := blocktest.Build(t, disk, blockgraph.Machine{}, blockgraph.Unlock{})
	own := g.Device().Options
	for name, devices := range map[string][]blockgraph.Object{
		"none":          {},
		"too many":      {own, own, own},
		"another id":    {own.With("id", "luksplug-vdc")},
		"no controller": {own.With("id", "luksplug-vdb-other"), own},
		"another node":  {own.With("drive", "luksplug-vdc-luks")},
		"a chardev":     {own.Without("drive").With("chardev", "luksplug-vdb-chardev")},
	} {
		_, err := blockgraph.Build(disk, blockgraph.Machine{Devices: devices}, blockgraph.Unlock{})
		var placement *blockgraph.PlacementError
		if !errors.As(err, &placement) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestReservedPortsAreTakenFirst(t *testing.T) {
	t.Parallel()
	buses := []string{"pci.2", blockgraph.ReservedPort(0), "pci.10", blockgraph.ReservedPort(1), "pcie.0"}
	slices.SortFunc(buses, blockgraph.ComparePorts)
	if want := []string{blockgraph.ReservedPort(1), blockgraph.ReservedPort(0), "pci.10", "pci.2", "pcie.0"}; !slices.Equal(buses, want) {
		t.Errorf("got %v, want %v", buses, want)
	}
	if _, _, ours := blockgraph.ParseName(blockgraph.ReservedPort(0)); ours {
		t.Error("a port passes for a disk's node")
	}
}
