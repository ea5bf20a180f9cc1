package blockgraph_test

import (
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/internal/must"
)

// TestBuildRenamedCopy: no node of a copy whose files are renamed is opened again by its name; those of another copy are.
func TestBuildRenamedCopy(t *testing.T) {
	t.Parallel()
	const secret = "<secret type='passphrase' usage='test'/>"
	for name, source := range map[string]string{
		"luks":            "<driver name='qemu' type='raw'/><source file='/d'><encryption format='luks'>" + secret + "</encryption></source>",
		"luks over raw":   "<driver name='qemu' type='raw'/><source file='/d'><encryption format='luks'>" + secret + "<header type='file'><source file='/h'/></header></encryption></source>",
		"luks over qcow2": "<driver name='qemu' type='qcow2'/><source file='/d'><encryption format='luks'>" + secret + "<header type='file'><source file='/h'/></header></encryption></source>",
		"luks in qcow2":   "<driver name='qemu' type='qcow2'/><source file='/d'><encryption format='luks'>" + secret + "</encryption></source>",
		"qcow2":           "<driver name='qemu' type='qcow2'/><source file='/d'/>",
	} {
		disk := must.Get(diskxml.ParseDisk([]byte("<disk type='file'>" + source + "<target dev='vdb'/></disk>")))(t)
		for _, method := range []blockgraph.Method{blockgraph.MethodQEMU, blockgraph.MethodEphemeralHeader} {
			if name != "luks" && method != blockgraph.MethodQEMU {
				continue
			}
			u := blockgraph.Unlock{Method: method}
			for _, n := range must.Get(blockgraph.BuildRenamedCopy(disk, "vdb.2", u))(t).Nodes {
				if n.Role == blockgraph.RoleGuard {
					continue // its image is in memory
				}
				if n.Options.Get("auto-read-only") != nil || n.Options.Get("read-only") == true {
					t.Errorf("%s: %s: %+v", name, n.Name, n.Options)
				}
			}
			auto := false
			for _, n := range must.Get(blockgraph.BuildCopy(disk, "vdb.2", u))(t).Nodes {
				auto = auto || n.Options.Get("auto-read-only") == true
			}
			if !auto {
				t.Errorf("%s: no node of a copy that keeps its names has auto-read-only", name)
			}
		}
	}
}
