package blockgraph_test

import (
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
)

// BenchmarkPlanDetachedQcow2 goes from the XML of a disk with a detached header
// to its plan.
func BenchmarkPlanDetachedQcow2(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		d, err := blockgraph.ParseDisk([]byte(detached))
		if err != nil {
			b.Fatal(err)
		}
		g, err := blockgraph.Build(d, machines["q35"], blockgraph.Unlock{})
		if err != nil {
			b.Fatal(err)
		}
		if p := g.Plan(); len(p.Steps) == 0 {
			b.Fatal("no steps")
		}
	}
}

// BenchmarkPlanJSON prints a plan.
func BenchmarkPlanJSON(b *testing.B) {
	g, err := blockgraph.Build(mustParse(b, detached), machines["q35"], blockgraph.Unlock{})
	if err != nil {
		b.Fatal(err)
	}
	p := g.Plan()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.JSON(); err != nil {
			b.Fatal(err)
		}
	}
}
