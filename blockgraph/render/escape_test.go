package render_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// TestRenderingsArePrintable: names and paths with control characters cannot leave their line or control a terminal,
// in the text, in pictures, and in the JSON and the arguments, which hold them all the same.
func TestRenderingsArePrintable(t *testing.T) {
	t.Parallel()
	const evil = "/images/x\x1b[2J\u009b2J\u202e\x7f\r\t\n  9  blockdev-add"
	disk := &blockgraph.Disk{Target: "vdb", Bus: blockgraph.BusVirtio, Device: blockgraph.DeviceDisk,
		Image: blockgraph.Image{Format: blockgraph.FormatRaw, Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: evil}}}
	graph := blocktest.Build(t, disk, blockgraph.Machine{}, blockgraph.Unlock{})
	plan := graph.Plan()
	arguments, err := render.Arguments(plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"text": render.Text(plan), "DOT": render.DOT(graph), "Mermaid": render.Mermaid(graph), "SVG": render.SVG(graph),
		"JSON": blocktest.JSON(t, plan), "arguments": render.QuoteArguments(arguments),
	} {
		for line := range strings.Lines(text) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !strconv.IsPrint(r) }) {
				t.Errorf("%s: not printable: %q", name, line)
			}
			if strings.HasPrefix(line, "  9  blockdev-add") {
				t.Errorf("%s: the path has a line of its own:\n%s", name, text)
			}
		}
		if !strings.Contains(text, "9  blockdev-add") || !strings.Contains(text, "202e") {
			t.Errorf("%s does not show the path:\n%s", name, text)
		}
	}
}
