package hotplug

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
)

// TestImageName has the answers of a QEMU 10.0.2.
func TestImageName(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"/images/a.raw":              "/images/a.raw",
		"nbd://127.0.0.1:10809/disk": "nbd://127.0.0.1:10809/disk",
		`json:{"password-secret": "s", "lun": 1, "portal": "127.0.0.1:3260", "driver": "iscsi", "transport": "tcp", "user": "vm1", "target": "iqn.2026-01.example:disks"}`: "iscsi://127.0.0.1:3260/iqn.2026-01.example:disks/1",
		`json:{"url": "https://a/b", "cookie-secret": "s", "driver": "https", "sslverify": true}`:                                                                          "https://a/b",
		`json:{"driver": "rbd", "pool": "p", "image": "i", "snapshot": "s", "server.0.host": "a"}`:                                                                         "rbd:p/i@s",
		`json:{"driver": "quorum"}`: `json:{"driver": "quorum"}`,
		"json:{":                    "json:{",
	} {
		if got := imageName(file); got != want {
			t.Errorf("%s is named %s, want %s", file, got, want)
		}
	}
}

// TestOwnOptions: a node is not told apart by what its children are.
func TestOwnOptions(t *testing.T) {
	t.Parallel()
	luks := parseOptions(`json:{"driver": "luks", "key-secret": "k", "header": "/h", "file": {"server.port": "1", "driver": "nbd", "server": {"host": "a"}}}`)
	if own, want := luks.own(), (options{"driver": "luks", "key-secret": "k"}); !maps.Equal(own, want) {
		t.Errorf("of the node itself: %v, want %v", own, want)
	}
	if below, want := luks.below("file"), (options{"driver": "nbd", "server.host": "a", "server.port": "1"}); !maps.Equal(below, want) {
		t.Errorf("of its file: %v, want %v", below, want)
	}
	if below := luks.below("header"); below != nil {
		t.Errorf("of a file that is named only: %v", below)
	}
	qcow2 := parseOptions(`json:{"driver": "qcow2", "encrypt": {"format": "luks"}, "backing": null, "file": "/f"}`)
	if own, want := qcow2.own(), (options{"driver": "qcow2", "encrypt.format": "luks"}); !maps.Equal(own, want) {
		t.Errorf("of the node itself: %v, want %v", own, want)
	}
}

// TestDiffersInLimits compares what QEMU says of a device with what a disk asks for.
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
		var m medium
		if err := json.Unmarshal([]byte(c.inserted), &m); err != nil {
			t.Fatal(err)
		}
		if got := differsInLimits(&blockgraph.Graph{Throttling: c.want}, m.throttling); got != c.differs {
			t.Errorf("%s: %q, want %q", c.name, got, c.differs)
		}
	}
}
