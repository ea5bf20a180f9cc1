package render_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// TestGoldenPrograms pins the plan of disks as other programs write them, or why they are refused. A comment in each
// names the program and the file of its that writes such a disk. TestPrograms of diskgen compares them with libvirt.
func TestGoldenPrograms(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/programs/*.txtar")
	if err != nil || len(files) < 47 {
		t.Fatalf("%d golden programs: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			want := readArchive(t, file)
			disk := want.Files[0]
			machine, known := blocktest.Machines[machineName(want)]
			if !known || !strings.HasPrefix(string(disk.Data), "<!-- ") {
				t.Fatal("the case needs a machine, and a comment with its source")
			}
			d, err := diskxml.ParseDisk(disk.Data)
			var g *blockgraph.Graph
			if err == nil {
				g, err = blockgraph.Build(d, machine, blockgraph.Unlock{})
			}
			if err != nil {
				blocktest.Typed(t, err)
				compareGolden(t, file, formatted(want.Comment, disk, "refused.txt", err.Error()+"\n"))
				return
			}
			p := g.Plan()
			args, err := render.Arguments(p, blocktest.SecretFile)
			arguments := render.QuoteArguments(args)
			if err != nil { // of limits, which are set in a running QEMU
				blocktest.Typed(t, err)
				arguments = err.Error() + "\n"
			}
			compareGolden(t, file, formatted(want.Comment, disk, "plan.txt", render.Text(p), "plan.json", blocktest.JSON(t, p), "arguments.sh", arguments))
		})
	}
}
