package blockgraph_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// BenchmarkPlanDetachedQcow2 plans a disk with a detached header, from its XML.
func BenchmarkPlanDetachedQcow2(b *testing.B) { benchmarkPlan(b, blocktest.Detached, 7) }

// BenchmarkPlanChain plans five layers, each encrypted with its own passphrase,
// from their XML.
func BenchmarkPlanChain(b *testing.B) { benchmarkPlan(b, encryptedChain(), 21) }

func benchmarkPlan(b *testing.B, doc string, steps int) {
	b.ReportAllocs()
	for b.Loop() {
		planOnce(b, doc, steps)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "plans/s")
}

// planOnce plans a document, and checks the number of steps.
func planOnce(t testing.TB, doc string, steps int) {
	t.Helper()
	d, err := diskxml.ParseDisk([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	g := blocktest.Build(t, d, blocktest.Machines["q35"], blockgraph.Unlock{})
	if p := g.Plan(); len(p.Steps) != steps {
		t.Fatalf("%d steps, want %d", len(p.Steps), steps)
	}
}

func encryptedChain() string {
	const enc = "<encryption format='luks'><secret type='passphrase' uuid='" + blocktest.AnyUUID + "'/></encryption>"
	doc := "<disk><driver type='qcow2'/><source file='/0'>" + enc + "</source>"
	for i := range 4 {
		doc += fmt.Sprintf("<backingStore type='file'><format type='qcow2'/><source file='/%d'>%s</source>", i+1, enc)
	}
	return doc + "<backingStore/>" + strings.Repeat("</backingStore>", 4) + "<target dev='vdb'/></disk>"
}

// TestPlanAllocations bounds the allocations of a plan, which unlike its time
// do not depend on the machine's load.
func TestPlanAllocations(t *testing.T) { // not parallel: the count is that of the whole process
	for name, c := range map[string]struct {
		doc   string
		steps int
		most  float64
	}{
		"detached header over qcow2": {blocktest.Detached, 7, 600},
		"chain of five, encrypted":   {encryptedChain(), 21, 1400},
	} {
		if n := testing.AllocsPerRun(20, func() { planOnce(t, c.doc, c.steps) }); n > c.most {
			t.Errorf("%s: %.0f allocations, and there should be %.0f at most", name, n, c.most)
		}
	}
}
