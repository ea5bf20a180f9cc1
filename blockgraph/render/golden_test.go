package render_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

var update = flag.Bool("update", false, "rewrite the golden files; review the difference before you commit it")

// readArchive reads a golden case, whose first file is the disk.
func readArchive(t testing.TB, file string) *txtar.Archive {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil || len(a.Files) == 0 || a.Files[0].Name != "disk.xml" {
		t.Fatalf("%s does not begin with disk.xml: %v", file, err)
	}
	return a
}

// formatted returns a case with the text of each further file, by pairs of name and text.
func formatted(comment []byte, disk txtar.File, pairs ...string) string {
	a := &txtar.Archive{Comment: comment, Files: []txtar.File{disk}}
	for i := 0; i < len(pairs); i += 2 {
		a.Files = append(a.Files, txtar.File{Name: pairs[i], Data: []byte(pairs[i+1])})
	}
	return string(txtar.Format(a))
}

// machineName returns the name in [blocktest.Machines] with which a golden case begins.
func machineName(a *txtar.Archive) string {
	return strings.TrimSpace(strings.TrimPrefix(string(a.Comment), "machine:"))
}

// planOf plans a golden case.
func planOf(t testing.TB, a *txtar.Archive) *blockgraph.Plan {
	t.Helper()
	name := machineName(a)
	machine, ok := blocktest.Machines[name]
	if !ok {
		t.Fatalf("the case begins with machine %q: want one of blocktest.Machines", name)
	}
	g := blocktest.Build(t, blocktest.Parse(t, string(a.Files[0].Data)), machine, blockgraph.Unlock{})
	return g.Plan()
}

// TestGoldenPlans pins the commands for every kind of image on every bus. The devices and
// nodes were reviewed against libvirt's translation of the same elements (it has no
// <header>); review them again before you update them.
func TestGoldenPlans(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plans/*.txtar")
	if err != nil || len(files) < 48 {
		t.Fatalf("%d golden plans: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			want := readArchive(t, file)
			p := planOf(t, want)
			doc := blocktest.JSON(t, p)
			args, err := render.Arguments(p, blocktest.SecretFile)
			if err != nil {
				t.Fatal(err)
			}
			compareGolden(t, file, formatted(want.Comment, want.Files[0],
				"plan.txt", render.Text(p), "plan.json", doc, "arguments.sh", render.QuoteArguments(args)))
		})
	}
}

// TestGoldenUnlock pins the commands for a volume that is unlocked outside of QEMU, for
// every kind of image.
func TestGoldenUnlock(t *testing.T) {
	t.Parallel()
	methods := map[string]blockgraph.Unlock{
		"ephemeral":      {Method: blockgraph.MethodEphemeralHeader, FDSet: blockgraph.FirstFDSet + 7},
		"ephemeral-file": {Method: blockgraph.MethodEphemeralHeader, Dir: "/run/luksplug/vm1/vdb"},
		"external":       {Method: blockgraph.MethodStorageDaemon, Dir: "/run/luksplug/vm1/vdb"},
	}
	for _, name := range []string{"plain", "luks", "qcow2-luks", "detached-raw", "detached-qcow2", "detached-qcow2-header"} {
		for method, unlock := range methods {
			t.Run(name+"_"+method, func(t *testing.T) {
				t.Parallel()
				disk := readArchive(t, "testdata/plans/"+name+"_virtio-q35.txtar").Files[0]
				g := blocktest.Build(t, blocktest.Parse(t, string(disk.Data)), blocktest.Machines["q35"], unlock)
				p := g.Plan()
				doc := blocktest.JSON(t, p)
				passed := len(g.Headers) > 0 && g.Headers[0].File == ""
				if _, err := render.Arguments(p, blocktest.SecretFile); (err != nil) != (passed || g.Daemon != nil) {
					t.Errorf("arguments: %v", err)
				}
				blocktest.CheckXML(t, render.SVG(g))
				compareGolden(t, "testdata/unlock/"+name+"_"+method+".txtar",
					formatted(nil, disk, "plan.txt", render.Text(p), "plan.json", doc, "graph.mmd", render.Mermaid(g)))
			})
		}
	}
}

// TestGoldenPictures pins the pictures of each kind of image.
func TestGoldenPictures(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "luks", "qcow2-luks", "detached-raw", "detached-qcow2", "detached-qcow2-header"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := planOf(t, readArchive(t, "testdata/plans/"+name+"_scsi-new.txtar")).Graph
			blocktest.CheckXML(t, render.SVG(g))
			compareGolden(t, "testdata/pictures/"+name+".dot", render.DOT(g))
			compareGolden(t, "testdata/pictures/"+name+".mmd", render.Mermaid(g))
			compareGolden(t, "testdata/pictures/"+name+".svg", render.SVG(g))
		})
	}
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", file, got)
	}
}
