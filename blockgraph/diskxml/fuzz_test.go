package diskxml_test

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// FuzzParseDisk: no document makes the parser, the planner or a renderer panic,
// and every refusal is a typed error of one line.
func FuzzParseDisk(f *testing.F) {
	files, err := filepath.Glob("../render/testdata/[ip]*s/*.txtar") // images and plans
	if err != nil || len(files) == 0 {
		f.Fatal("no golden files", err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Files[0].Data)
	}
	f.Add([]byte("<disk><source file='/a'/><target dev='vda'/><address type='pci' slot='0x1g'/></disk>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		d, err := diskxml.ParseDisk(doc)
		if err != nil {
			blocktest.Typed(t, err)
			return
		}
		for _, m := range blocktest.Machines {
			g, err := blockgraph.Build(d, m, blockgraph.Unlock{})
			if err != nil {
				blocktest.Typed(t, err)
				continue
			}
			blocktest.Everything(t, g.Plan())
			blocktest.CheckXML(t, render.SVG(g))
		}
	})
}

// FuzzParseDomain: no document makes it panic, and every machine that it reads
// can be planned for.
func FuzzParseDomain(f *testing.F) {
	f.Add([]byte(blocktest.LiveQ35))
	f.Add([]byte("<domain><os><type machine='pc'/></os><devices><controller type='pci' index='-1'/></devices></domain>"))
	disk, err := diskxml.ParseDisk([]byte(blocktest.Detached))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		m, err := diskxml.ParseDomain(doc)
		if err != nil {
			blocktest.Typed(t, err)
			return
		}
		if _, err := blockgraph.Build(disk, m, blockgraph.Unlock{}); err != nil {
			blocktest.Typed(t, err)
		}
	})
}
