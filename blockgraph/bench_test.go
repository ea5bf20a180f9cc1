package blockgraph_test

import (
	"fmt"
	"strings"
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

// BenchmarkPlanChain goes from the XML of five layers, each encrypted with a
// passphrase of its own, to the plan.
func BenchmarkPlanChain(b *testing.B) {
	const enc = "<encryption format='luks'><secret type='passphrase' uuid='" + anyUUID + "'/></encryption>"
	doc := "<disk><driver type='qcow2'/><source file='/0'>" + enc + "</source>"
	for i := range 4 {
		doc += fmt.Sprintf("<backingStore type='file'><format type='qcow2'/><source file='/%d'>%s</source>", i+1, enc)
	}
	doc += "<backingStore/>" + strings.Repeat("</backingStore>", 4) + "<target dev='vdb'/></disk>"
	b.ReportAllocs()
	for b.Loop() {
		d, err := blockgraph.ParseDisk([]byte(doc))
		if err != nil {
			b.Fatal(err)
		}
		g, err := blockgraph.Build(d, machines["q35"], blockgraph.Unlock{})
		if err != nil {
			b.Fatal(err)
		}
		if p := g.Plan(); len(p.Steps) != 21 {
			b.Fatalf("%d steps", len(p.Steps))
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
