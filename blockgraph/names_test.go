package blockgraph_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

func TestRoleBase(t *testing.T) {
	t.Parallel()
	for role, want := range map[blockgraph.Role]struct {
		base  blockgraph.Role
		layer int
	}{
		"luks": {"luks", 0}, "b1-luks": {"luks", 1}, "b99-h-storage": {"header-storage", 99}, "b7-storage": {"payload-storage", 7},
		"b3-d-storage": {"data-storage", 3}, "b2-h-fdset": {"header-fdset", 2}, "b12-format": {"payload-format", 12},
		"b0-luks": {"b0-luks", 0}, "b100-luks": {"b100-luks", 0}, "b01-luks": {"b01-luks", 0}, "b1-": {"b1-", 0}, "b1": {"b1", 0}, "bx-luks": {"bx-luks", 0},
		"b1-payload-storage": {"b1-payload-storage", 0}, "secret3": {"secret3", 0}, "": {"", 0},
	} {
		if base, layer := role.Base(); base != want.base || layer != want.layer {
			t.Errorf("%q: %q in layer %d, want %q in %d", role, base, layer, want.base, want.layer)
		}
	}
}

// TestDeepChain: the deepest chain that has names, whose names all fit.
func TestDeepChain(t *testing.T) {
	t.Parallel()
	chain := func(layers int) *blockgraph.Disk {
		d := &blockgraph.Disk{Target: "vdabcd", Bus: blockgraph.BusVirtio, Device: blockgraph.DeviceDisk}
		image := &d.Image
		for i := range layers {
			*image = blockgraph.Image{Format: blockgraph.FormatQcow2, Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: fmt.Sprintf("/%d", i)}}
			if i < layers-1 {
				image.Backing = &blockgraph.Image{}
				image = image.Backing
			}
		}
		return d
	}
	g := blocktest.Build(t, chain(100), blockgraph.Machine{}, blockgraph.Unlock{})
	for _, n := range g.Nodes {
		if len(n.Name) > 31 || !strings.HasPrefix(n.Name, "luksplug-vdabcd-") {
			t.Errorf("an odd name: %s", n.Name)
		}
	}
	if len(g.Nodes) != 200 || g.Nodes[0].Role != "b99-storage" {
		t.Errorf("%d nodes, the first is %s", len(g.Nodes), g.Nodes[0].Role)
	}
	if _, err := blockgraph.Build(chain(101), blockgraph.Machine{}, blockgraph.Unlock{}); err == nil {
		t.Error("101 layers were accepted")
	}
}

func TestSecretTextIsRedacted(t *testing.T) {
	t.Parallel()
	c := blockgraph.Cookie{Name: "a", Value: "hunter2"}
	d := blockgraph.SecretData{Text: "hunter2"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if text := fmt.Sprintf(format+format+format, c, d, c.Value); strings.Contains(text, "hunter2") || strings.Contains(text, "68756e74657232") {
			t.Errorf("%s: %s", format, text)
		}
	}
}
