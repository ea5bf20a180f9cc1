package blockgraph_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/internal/must"
)

// TestGuard: the first steps of a copy pass an image that QEMU takes for an empty one of format vdi, and open it read-only. It has
// the name of the target in both instances, and its way depends on the monitor only.
func TestGuard(t *testing.T) {
	t.Parallel()
	disk := &blockgraph.Disk{Target: "vdb", Device: blockgraph.DeviceDisk, Bus: blockgraph.BusVirtio, CopyOnRead: true, ThrottleFilters: []string{"slow"},
		Image: blockgraph.Image{Format: blockgraph.FormatRaw, Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: "/images/vdb"}}}
	for instance, node := range map[string]string{"vdb": "luksplug-vdb-payload-storage", "vdb.2": "luksplug.vdb-payload-storage"} {
		for u, subjects := range map[blockgraph.Unlock][]string{
			{FDSet: 1_900_000_003}: {"luksplug-vdb-copying-fdset", "luksplug-vdb-copying", "luksplug-vdb-copying-fdset", node},
			{Dir: "/run/x"}:        {"luksplug-vdb-copying", node},
		} {
			g := must.Get(blockgraph.BuildCopy(disk, instance, u))(t)
			var got []string
			for _, s := range g.Plan().Steps {
				got = append(got, s.Subject)
				if guards := s.Guard != nil; guards != (s.Subject != node && s.Kind != blockgraph.StepRelease) {
					t.Errorf("%s: step %s has the guard: %v", instance, s.Subject, guards)
				}
			}
			if !slices.Equal(got, subjects) || g.Top().Name != node {
				t.Errorf("%s: steps %v, top node %s", instance, got, g.Top().Name)
			}
			if want := map[bool]string{true: "/dev/fdset/1900000003", false: "/run/x/luksplug-vdb-copying"}[u.Dir == ""]; g.Nodes[0].Options.Get("file").(blockgraph.Object).Text("filename") != want {
				t.Errorf("%s: %v", instance, g.Nodes[0].Options)
			}
			if u.Dir != "" && g.Guard.File != "/run/x/luksplug-vdb-copying" || u.Dir == "" && g.Guard.FDSet != u.FDSet {
				t.Errorf("%s: %+v", instance, g.Guard)
			}
			must.Have(t, "qemu-img")
			path := filepath.Join(t.TempDir(), "image")
			must.OK(t, os.WriteFile(path, g.Guard.Image, 0o600))
			must.Run(t, "", "qemu-img", "check", "-q", "-f", "vdi", path)
		}
	}
}
