package render_test

import (
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// BenchmarkPlanJSON prints a plan.
func BenchmarkPlanJSON(b *testing.B) {
	g := blocktest.Build(b, blocktest.Parse(b, blocktest.Detached), blocktest.Machines["q35"], blockgraph.Unlock{})
	p := g.Plan()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := render.JSON(p); err != nil {
			b.Fatal(err)
		}
	}
}
