package samedisk

import (
	"encoding/json"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
)

// TestDiffersInLimits compares QEMU's limits of a device with those of a disk.
func TestDiffersInLimits(t *testing.T) {
	t.Parallel()
	const path = "/machine/peripheral/luksplug-vdb"
	for _, c := range []struct {
		name, inserted string
		want           blockgraph.Object
		differs        string
	}{
		{name: "none", inserted: `{"bps": 0, "iops": 0}`},
		{name: "the same", inserted: `{"bps": 10, "bps_max": 20, "bps_max_length": 1, "iops": 0, "group": "` + path + `"}`,
			want: blockgraph.Object{{Name: "id", Value: path}, {Name: "bps", Value: uint64(10)}, {Name: "bps_max", Value: uint64(20)}, {Name: "iops", Value: uint64(0)}}},
		{name: "removed", inserted: `{"bps": 10, "group": "` + path + `"}`, differs: "its limit bps is 10, not 0"},
		{name: "added", inserted: `{"bps": 0}`, want: blockgraph.Object{{Name: "id", Value: path}, {Name: "bps", Value: uint64(10)}}, differs: "its limit bps is 0, not 10"},
		{name: "a longer burst", inserted: `{"bps": 10, "bps_max": 20, "bps_max_length": 3, "group": "` + path + `"}`,
			want: blockgraph.Object{{Name: "id", Value: path}, {Name: "bps", Value: uint64(10)}, {Name: "bps_max", Value: uint64(20)}}, differs: "its limit bps_max_length is 3, not 0"},
		{name: "another group", inserted: `{"iops": 5, "group": "gold"}`,
			want: blockgraph.Object{{Name: "id", Value: path}, {Name: "iops", Value: uint64(5)}, {Name: "group", Value: "bronze"}}, differs: "its limits are those of the group gold, not of bronze"},
	} {
		var m inventory.Medium
		if err := json.Unmarshal([]byte(c.inserted), &m); err != nil {
			t.Fatal(err)
		}
		if got := differsInLimits(&blockgraph.Graph{Throttling: c.want}, m.Throttling); got != c.differs {
			t.Errorf("%s: %q, want %q", c.name, got, c.differs)
		}
	}
}
