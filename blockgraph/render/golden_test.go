package render_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference before you commit it")

// archive is a text archive: a comment, then sections that each begin with a
// line "-- name --".
type archive struct {
	comment  string
	sections []section
}

type section struct{ name, text string }

func readArchive(t testing.TB, file string) archive {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var a archive
	for line := range strings.Lines(string(data)) {
		name, marked := strings.CutPrefix(strings.TrimSuffix(line, " --\n"), "-- ")
		switch last := len(a.sections) - 1; {
		case marked && strings.HasSuffix(line, " --\n"):
			a.sections = append(a.sections, section{name: name})
		case last < 0:
			a.comment += line
		default:
			a.sections[last].text += line
		}
	}
	return a
}

func (a archive) String() string {
	var b strings.Builder
	b.WriteString(a.comment)
	for _, s := range a.sections {
		b.WriteString("-- " + s.name + " --\n" + s.text)
	}
	return b.String()
}

// planOf plans a golden case: its comment names the machine, its first section
// is the disk.
func planOf(t testing.TB, a archive) *blockgraph.Plan {
	t.Helper()
	name := strings.TrimSpace(strings.TrimPrefix(a.comment, "machine:"))
	machine, ok := blocktest.Machines[name]
	if !ok || len(a.sections) == 0 || a.sections[0].name != "disk.xml" {
		t.Fatalf("the case begins with machine %q: want one of machines_test.go, and then disk.xml", name)
	}
	g := blocktest.Build(t, blocktest.Parse(t, a.sections[0].text), machine, blockgraph.Unlock{})
	return g.Plan()
}

// TestGoldenPlans pins what QEMU is told, for every kind of image on every bus.
// The devices and nodes were read by eye against how libvirt translates the
// same elements (it has no <header>); read them again before you update them.
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
			got := archive{want.comment, []section{
				want.sections[0],
				{"plan.txt", render.Text(p)},
				{"plan.json", doc},
				{"arguments.sh", render.QuoteArguments(args)},
			}}
			compareGolden(t, file, got.String())
		})
	}
}

// TestGoldenUnlock pins what QEMU is told where a volume is unlocked outside of
// it, for every kind of image.
func TestGoldenUnlock(t *testing.T) {
	t.Parallel()
	ways := map[string]blockgraph.Unlock{
		"ephemeral":      {Method: blockgraph.MethodEphemeralHeader, FDSet: blockgraph.FirstFDSet + 7},
		"ephemeral-file": {Method: blockgraph.MethodEphemeralHeader, Dir: "/run/luksplug/vm1/vdb"},
		"external":       {Method: blockgraph.MethodStorageDaemon, Dir: "/run/luksplug/vm1/vdb"},
	}
	for _, name := range []string{"plain", "luks", "qcow2-luks", "detached-raw", "detached-qcow2", "detached-qcow2-header"} {
		for way, unlock := range ways {
			t.Run(name+"_"+way, func(t *testing.T) {
				t.Parallel()
				disk := readArchive(t, "testdata/plans/"+name+"_virtio-q35.txtar").sections[0]
				g := blocktest.Build(t, blocktest.Parse(t, disk.text), blocktest.Machines["q35"], unlock)
				p := g.Plan()
				doc := blocktest.JSON(t, p)
				passed := len(g.Headers) > 0 && g.Headers[0].File == ""
				if _, err := render.Arguments(p, blocktest.SecretFile); (err != nil) != (passed || g.Daemon != nil) {
					t.Errorf("arguments: %v", err)
				}
				blocktest.CheckXML(t, render.SVG(g))
				got := archive{"", []section{disk, {"plan.txt", render.Text(p)}, {"plan.json", doc}, {"graph.mmd", render.Mermaid(g)}}}
				compareGolden(t, "testdata/unlock/"+name+"_"+way+".txtar", got.String())
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
		t.Errorf("%s differs (go test -update writes it anew); got:\n%s", file, got)
	}
}
