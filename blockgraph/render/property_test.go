package render_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

func TestPlanIsDeterministic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, m, p := blocktest.AnyPlan(t)
		again := blocktest.Build(t, d, m, blockgraph.Unlock{})
		first := blocktest.Everything(t, p)
		if second := blocktest.Everything(t, again.Plan()); first != second {
			t.Fatalf("two plans of one disk differ:\n%s\n%s", first, second)
		}
		if third := blocktest.Everything(t, p); first != third {
			t.Fatal("printing a plan changed it")
		}
	})
}

func TestRenderingsAreWellFormed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, _, p := blocktest.AnyPlan(t)
		doc := blocktest.JSON(t, p)
		var read struct {
			Objects   []map[string]any
			Blockdevs []map[string]any
			Device    map[string]any
			Chardevs  []any
		}
		if err := json.Unmarshal([]byte(doc), &read); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if len(read.Objects) != len(d.Secrets()) || len(read.Blockdevs) != len(p.Graph.Nodes) || read.Device["drive"] != p.Graph.Top().Name || read.Chardevs == nil {
			t.Fatalf("the JSON is not the graph:\n%s", doc)
		}
		for _, o := range read.Objects {
			if o["data"] != blockgraph.Redacted {
				t.Fatalf("a secret's data are %v", o["data"])
			}
		}
		// Paths arrive byte for byte, with any characters.
		paths := []string{d.Image.Source.Path}
		if h := d.Header(); h != nil {
			paths = append(paths, h.Source.Path)
		}
		for _, path := range paths {
			if !slices.ContainsFunc(read.Blockdevs, func(n map[string]any) bool { return n["filename"] == path }) {
				t.Fatalf("%q is in no node:\n%s", path, doc)
			}
		}
		if lines := strings.Count(render.Text(p), "\n"); lines != len(p.Steps)+1 {
			t.Fatalf("the text has %d lines for %d steps:\n%q", lines, len(p.Steps), render.Text(p))
		}
		blocktest.CheckXML(t, render.SVG(p.Graph))
	})
}
