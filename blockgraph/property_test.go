package blockgraph_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// TestPlanOrder checks that the inputs of each step exist, and that undoing the
// steps from last to first never removes anything in use.
func TestPlanOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, _, p := blocktest.AnyPlan(t)
		g := p.Graph
		made := map[string]bool{}
		added, released := map[string]int{}, map[string]int{}
		need := func(step int, name string) {
			if name != "" && !made[name] {
				t.Fatalf("step %d needs %s, which is not there:\n%s", step+1, name, render.Text(p))
			}
		}
		for i, s := range p.Steps {
			o := s.Do.Arguments
			switch s.Kind {
			case blockgraph.StepObject:
				added[s.Subject]++
			case blockgraph.StepNode:
				node := g.Nodes[slices.IndexFunc(g.Nodes, func(n blockgraph.Node) bool { return n.Name == s.Subject })]
				for _, c := range node.Children {
					need(i, c.Name)
					if o.Text(c.Member) != c.Name {
						t.Fatalf("the child %s of %s is not its %s", c.Name, node.Name, c.Member)
					}
				}
				for _, member := range []string{"file", "header", "key-secret"} {
					need(i, o.Text(member))
				}
				if e, ok := o.Get("encrypt").(blockgraph.Object); ok {
					need(i, e.Text("key-secret"))
				}
			case blockgraph.StepDevice:
				need(i, o.Text("drive"))
				if bus, ours := strings.CutSuffix(o.Text("bus"), ".0"); ours && strings.HasPrefix(bus, "luksplug-") {
					need(i, bus)
				}
			case blockgraph.StepLimit:
				need(i, s.Subject)
				if i != len(p.Steps)-1 || s.Undo.Execute != "" {
					t.Fatalf("limits are set last, and not undone: %+v", s)
				}
				continue
			case blockgraph.StepRelease:
				released[s.Subject] = i
				need(i, s.Subject)
				delete(made, s.Subject)
				if s.Undo.Execute != "" || s.Do.Execute != "object-del" || o.Text("id") != s.Subject {
					t.Fatalf("an odd release: %+v", s)
				}
				continue
			}
			if made[s.Subject] {
				t.Fatalf("%s is made twice", s.Subject)
			}
			made[s.Subject] = true
			want := map[string][3]string{
				"object-add": {"object-del", "id", "id"}, "blockdev-add": {"blockdev-del", "node-name", "node-name"}, "device_add": {"device_del", "id", "id"},
			}[s.Do.Execute]
			if s.Undo.Execute != want[0] || s.Undo.Arguments.Text(want[1]) != s.Subject || o.Text(want[2]) != s.Subject {
				t.Fatalf("step %d is not undone by its inverse: %+v", i+1, s)
			}
		}
		checkSecrets(t, d, p, added, released)
	})
}

// checkSecrets checks that each secret is added once, read by one node right
// after, and then removed.
func checkSecrets(t *rapid.T, d *blockgraph.Disk, p *blockgraph.Plan, added, released map[string]int) {
	readers := map[string]int{}
	lastReader := map[string]int{}
	for i, s := range p.Steps {
		if s.Kind != blockgraph.StepNode {
			continue
		}
		for _, text := range []blockgraph.Object{s.Do.Arguments, encryptOf(s)} {
			if id := text.Text("key-secret"); id != "" {
				readers[id]++
				lastReader[id] = i
			}
		}
	}
	if want := len(d.Secrets()); len(added) != want || len(readers) != want || len(released) != want {
		t.Fatalf("%d secrets: %v added, %v read, %v released", want, added, readers, released)
	}
	for id := range added {
		if added[id] != 1 || readers[id] != 1 {
			t.Fatalf("%s is added %d times and read by %d nodes", id, added[id], readers[id])
		}
		if released[id] != lastReader[id]+1 {
			t.Fatalf("%s is read in step %d and released in step %d", id, lastReader[id]+1, released[id]+1)
		}
	}
	// What the guest reads is decrypted: the encryption is in the top node.
	if d.Image.Encryption != nil {
		top := p.Graph.Top()
		if top.Options.Text("key-secret") == "" && encryptOf(blockgraph.Step{Do: blockgraph.Command{Arguments: top.Options}}) == nil {
			t.Fatalf("the device is on %s, which decrypts nothing", top.Name)
		}
	}
}

func encryptOf(s blockgraph.Step) blockgraph.Object {
	o, _ := s.Do.Arguments.Get("encrypt").(blockgraph.Object)
	return o
}

func TestNamesAreOurs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, _, p := blocktest.AnyPlan(t)
		for _, s := range p.Steps {
			if s.Subject == d.Alias && d.Alias != "" {
				continue
			}
			target, role, ok := blockgraph.ParseName(s.Subject)
			if !ok || target != d.Target || blockgraph.Name(target, role) != s.Subject {
				t.Fatalf("%q is read as %q, %q, %v", s.Subject, target, role, ok)
			}
			if len(s.Subject) > 31 || s.Subject != "luksplug-"+d.Target && !strings.HasPrefix(s.Subject, "luksplug-"+d.Target+"-") {
				t.Fatalf("an odd name: %q", s.Subject)
			}
		}
	})
}

func TestParseNameRefusesOthers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "libvirt-1-format", "luksplug", "luksplug-", "luksplug--luks", "luksplug-vdb-", "luksplug-vd-luks",
		"luksplug-vdb1", "luksplug-VDB", "Luksplug-vdb", "luksplug-foo-luks", "#block123"} {
		if target, role, ok := blockgraph.ParseName(name); ok {
			t.Errorf("%q is read as %q, %q", name, target, role)
		}
	}
}
