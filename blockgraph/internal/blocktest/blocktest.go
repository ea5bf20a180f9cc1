// Package blocktest holds helpers for the tests of blockgraph, diskxml and render:
// example and random disks and VMs, and checks.
package blocktest

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// AnyUUID is the secret of most disks here.
const AnyUUID = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"

// Parse reads a disk.
func Parse(t testing.TB, doc string) *blockgraph.Disk {
	t.Helper()
	d, err := diskxml.ParseDisk([]byte(doc))
	if err != nil {
		t.Fatalf("ParseDisk: %v\n%s", err, doc)
	}
	return d
}

// Build builds the graph of a disk.
func Build(t fataler, d *blockgraph.Disk, m blockgraph.Machine, u blockgraph.Unlock) *blockgraph.Graph {
	t.Helper()
	g, err := blockgraph.Build(d, m, u)
	if err != nil {
		t.Fatalf("%v: %+v", err, d)
	}
	return g
}

// JSON renders a plan as JSON.
func JSON(t fataler, p *blockgraph.Plan) string {
	t.Helper()
	doc, err := render.JSON(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// Plain returns the disk to compare the accepted variations with.
func Plain(change func(*blockgraph.Disk)) *blockgraph.Disk {
	d := &blockgraph.Disk{
		Target: "vdb", Bus: blockgraph.BusVirtio, Device: blockgraph.DeviceDisk,
		Image: blockgraph.Image{
			Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: "/a"},
			Format: blockgraph.FormatRaw,
		},
	}
	change(d)
	return d
}

// Detached is a disk whose LUKS header is in a file of its own.
const Detached = `<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' discard='unmap'/>
  <source file='/images/payload.qcow2'>
    <encryption format='luks'>
      <secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>
      <header type='file'>
        <format type='raw'/>
        <source file='/headers/vm1-vdb.hdr'/>
      </header>
    </encryption>
  </source>
  <target dev='vdb' bus='virtio'/>
</disk>`

// DiskAt is a plain disk with this target and, if any, address.
func DiskAt(target, address string) string {
	return "<disk><source file='/a'/><target " + target + "/>" + address + "</disk>"
}

// Typed fails unless err is one line, of a type that blockgraph and diskxml
// document.
func Typed(t *testing.T, err error) {
	t.Helper()
	if !is[*diskxml.XMLError](err) && !is[*blockgraph.InvalidError](err) && !is[*blockgraph.UnsupportedError](err) && !is[*blockgraph.PlacementError](err) {
		t.Fatalf("an error of type %T: %v", err, err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Fatalf("not one line: %q", err)
	}
}

func is[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// SecretFile names the file of a secret object for render.Arguments.
func SecretFile(o blockgraph.GraphObject) (string, error) { return "/run/luksplug/" + o.ID, nil }

// Everything renders a plan in every form.
func Everything(t fataler, p *blockgraph.Plan) string {
	args, err := render.Arguments(p, SecretFile)
	if (err != nil) != (p.Graph.Throttling != nil || p.Graph.Overlay != nil) {
		t.Fatal(err)
	}
	return strings.Join([]string{render.Text(p), JSON(t, p), render.QuoteArguments(args), render.DOT(p.Graph), render.Mermaid(p.Graph), render.SVG(p.Graph)}, "\x00")
}

// fataler is implemented by testing.T and rapid.T.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// CheckXML fails unless doc is well-formed.
func CheckXML(t fataler, doc string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(doc)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, doc)
		}
	}
}
