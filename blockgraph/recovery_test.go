package blockgraph_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/internal/must"
)

// recoverXML returns a disk with that recovery, further elements, and a layer below.
func recoverXML(attribute, more, lower string) string {
	layer := "<encryption format='luks'><secret type='passphrase' uuid='" + blocktest.AnyUUID + "'/><header %s><source file='/%s'/></header></encryption>"
	below := ""
	if lower != "" {
		below = "<backingStore type='file'><format type='raw'/><source file='/below'>" + fmt.Sprintf(layer, lower, "h2") + "</source></backingStore>"
	}
	return "<disk><driver type='qcow2'/><source file='/a'>" + fmt.Sprintf(layer, attribute, "h") + "</source>" + below + "<target dev='vdb'/>" + more + "</disk>"
}

// TestRecovery: a recovered disk is read-only unless that is asked for, and in all of its nodes.
func TestRecovery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, xml string
		readOnly  bool
		err       string // "" for none
	}{
		{"none", recoverXML("", "", ""), false, ""},
		{"read-only", recoverXML("recover='read-only'", "", ""), true, ""},
		{"read-only twice", recoverXML("recover='read-only'", "<readonly/>", ""), true, ""},
		{"read-write", recoverXML("recover='read-write'", "", ""), false, ""},
		{"transient", recoverXML("recover='read-only'", "<transient/>", ""), false, ""},
		{"a layer below", recoverXML("", "", "recover='read-only'"), false, ""},
		{"both", recoverXML("recover='read-write'", "<readonly/>", ""), false, "keep one of the two"},
		{"a drive that is only read", strings.Replace(recoverXML("recover='read-write'", "", ""), "<disk>", "<disk device='cdrom'>", 1), false, "keep one of the two"},
		{"writes to a layer below", recoverXML("", "", "recover='read-write'"), false, "the layers below are only read"},
		{"another value", recoverXML("recover='yes'", "", ""), false, "use read-only, read-write"},
	} {
		disk, err := diskxml.ParseDisk([]byte(c.xml))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "recover") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || disk.ReadOnly != c.readOnly {
			t.Errorf("%s: read-only is %t, %v", c.name, disk != nil && disk.ReadOnly, err)
			continue
		}
		recovers := strings.Contains(c.xml, "recover=")
		if warned := slices.ContainsFunc(disk.Warnings(), func(w string) bool { return strings.Contains(w, "is taken as a backup") }); warned != recovers {
			t.Errorf("%s: warnings %q", c.name, disk.Warnings())
		}
		for _, u := range []blockgraph.Unlock{{Method: blockgraph.MethodQEMU}, {Method: blockgraph.MethodEphemeralHeader}, {Method: blockgraph.MethodStorageDaemon, Dir: "/d"}} {
			graph := must.Get(blockgraph.Build(disk, blockgraph.Machine{Name: "vm"}, u))(t)
			for _, g := range []*blockgraph.Graph{graph, graph.Daemon} {
				if g == nil || !c.readOnly {
					continue
				}
				for _, n := range g.Nodes {
					if got := n.Options.Get("read-only"); got == false && n.Role != blockgraph.RoleHeaderStorage {
						t.Errorf("%s, %s: node %s can be written to", c.name, u.Method, n.Name)
					}
				}
			}
		}
	}
}

// TestRecover: a program recovers a disk as the attribute does, and cannot contradict it.
func TestRecover(t *testing.T) {
	t.Parallel()
	var invalid *blockgraph.InvalidError
	plain := blocktest.Parse(t, "<disk><source file='/a'/><target dev='vdb'/></disk>")
	if err := plain.Recover(blockgraph.RecoveryReadOnly); !errors.As(err, &invalid) || plain.Recovery() != "" {
		t.Errorf("without a header: %v", err)
	}
	disk := blocktest.Parse(t, recoverXML("", "", ""))
	must.OK(t, disk.Recover(blockgraph.NoRecovery))
	if disk.ReadOnly || disk.Recovery() != "" {
		t.Error("no recovery changes the disk")
	}
	must.OK(t, disk.Recover(blockgraph.RecoveryReadOnly), disk.Validate())
	if !disk.ReadOnly || disk.Recovery() != blockgraph.RecoveryReadOnly {
		t.Errorf("recovered: %+v", disk)
	}
	if err := disk.Recover(blockgraph.RecoveryReadWrite); !errors.As(err, &invalid) {
		t.Errorf("another recovery: %v", err)
	}
	disk.ReadOnly = false
	if err := disk.Validate(); !errors.As(err, &invalid) {
		t.Errorf("a disk that can be written to: %v", err)
	}
	disk = blocktest.Parse(t, recoverXML("", "", ""))
	must.OK(t, disk.Recover("so"))
	if err := disk.Validate(); !errors.As(err, &invalid) {
		t.Errorf("an unknown recovery: %v", err)
	}
	disk = blocktest.Parse(t, "<disk><source file='/a'><encryption format='luks'><secret type='passphrase' uuid='"+blocktest.AnyUUID+"'/></encryption></source><target dev='vdb'/></disk>")
	disk.Image.Encryption.Recovery = blockgraph.RecoveryReadOnly
	if err := disk.Validate(); !errors.As(err, &invalid) {
		t.Errorf("a recovery without a header: %v", err)
	}
}
