package render_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// TestGoldenImages pins the commands for each kind of source, encryption and
// chain, with each unlock method. The nodes and their members were compared with
// those of libvirt 11.3 for the same documents, where it knows their elements;
// review them again before you update them.
func TestGoldenImages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/images/*.txtar")
	if err != nil || len(files) < 26 {
		t.Fatalf("%d golden images: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			disk := readArchive(t, file).Files[0]
			d := blocktest.Parse(t, string(disk.Data))
			var got []string
			for _, method := range []struct {
				name   string
				unlock blockgraph.Unlock
			}{
				{"qemu", blockgraph.Unlock{}},
				{"ephemeral", blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader}},
				{"external", blockgraph.Unlock{Method: blockgraph.MethodStorageDaemon, Dir: "/run/luksplug/vm1/vdb"}},
			} {
				if method.name != "qemu" && !d.Encrypted() {
					continue
				}
				g := blocktest.Build(t, d, blocktest.Machines["q35"], method.unlock)
				p := g.Plan()
				if _, err := render.Arguments(p, blocktest.SecretFile); d.Transient && err == nil {
					t.Error("the overlay of a transient disk, which does not exist, is among arguments")
				}
				blocktest.CheckXML(t, render.SVG(g))
				got = append(got, method.name+".txt", render.Text(p))
				if method.name == "external" {
					continue // the daemon's nodes are those of qemu
				}
				got = append(got, method.name+".json", blocktest.JSON(t, p))
			}
			var refs strings.Builder
			for _, ref := range d.Secrets() {
				refs.WriteString(string(ref.Type) + " " + ref.String() + "\n")
			}
			got = append(got, "secrets.txt", refs.String())
			if strings.Contains(strings.Join(got, "\n"), "0123abcd") {
				t.Error("the value of a cookie is printed")
			}
			compareGolden(t, file, formatted(nil, disk, got...))
		})
	}
}
