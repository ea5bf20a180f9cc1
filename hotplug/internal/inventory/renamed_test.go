package inventory

import (
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// TestRename: nodes of renamed files get their present paths, those of the same instance only.
func TestRename(t *testing.T) {
	t.Parallel()
	const opened, present = "/disk-r2.img", "/disk.img"
	other := blockgraph.OtherInstance("sdb")
	s := &State{}
	want := map[string]string{}
	for _, n := range []struct{ name, file, want string }{
		{blockgraph.Name(other, blockgraph.RolePayloadStorage), opened, present},
		{blockgraph.Name(other, blockgraph.RoleHeaderStorage), "/disk.hdr", "/disk.hdr"},
		{blockgraph.Name(other, blockgraph.RoleLUKS), `json:{"file": "` + opened + `"}`, ""},
		{blockgraph.Name("sdb", blockgraph.RolePayloadStorage), opened, opened},
		{blockgraph.Name("sdb", blockgraph.RoleLUKS), "json:{}", "json:{}"},
		{"libvirt-1-storage", opened, opened},
	} {
		s.Nodes = append(s.Nodes, Node{Name: n.name, File: n.file})
		want[n.name] = n.want
	}
	s.Host.Notes = map[string]rundir.Note{other: {Target: other, Renamed: []rundir.RenamedFile{{Opened: opened, Path: present}}}, "sdb": {Target: "sdb"}}
	s.Rename()
	for _, n := range s.Nodes {
		if n.File != want[n.Name] {
			t.Errorf("%s is of %q, want %q", n.Name, n.File, want[n.Name])
		}
	}
}
