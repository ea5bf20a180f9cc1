package storagevol

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
)

// XML returns the <volume> document, which diskxml.ParseVolume reads. Its <header>, if any, must be a file or block device.
func (v Volume) XML() []byte {
	w := &writer{}
	if v.Type != "" {
		w.line("<volume type='%s'>", v.Type)
	} else {
		w.line("<volume>")
	}
	w.depth++
	w.line("<name>%s</name>", v.Name)
	if v.HasCapacity {
		w.line("<capacity unit='bytes'>%d</capacity>", v.Capacity)
	}
	if v.HasAllocation {
		w.line("<allocation unit='bytes'>%d</allocation>", v.Allocation)
	}
	w.target(v)
	if b := v.Backing; b != nil {
		w.line("<backingStore>")
		w.line("  <path>%s</path>", b.Path)
		if b.Format != "" {
			w.line("  <format type='%s'/>", b.Format)
		}
		w.line("</backingStore>")
	}
	w.depth--
	w.line("</volume>")
	return []byte(w.String())
}

// writer writes the lines of a document.
type writer struct {
	strings.Builder
	depth int
}

// line writes a line whose texts are escaped.
func (w *writer) line(format string, args ...any) {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			args[i] = escapeXML(a)
		case Type:
			args[i] = escapeXML(string(a))
		}
	}
	fmt.Fprintf(&w.Builder, strings.Repeat("  ", w.depth)+format+"\n", args...)
}

func escapeXML(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a Buffer never fails
	return b.String()
}

func (w *writer) target(v Volume) {
	w.line("<target>")
	w.depth++
	if v.Path != "" {
		w.line("<path>%s</path>", v.Path)
	}
	if v.Format != "" {
		w.line("<format type='%s'/>", v.Format)
	}
	w.permissions(v.Permissions)
	if v.Encryption != nil {
		w.encryption(v.Encryption)
	}
	if v.Compat != "" {
		w.line("<compat>%s</compat>", v.Compat)
	}
	if v.NoCOW {
		w.line("<nocow/>")
	}
	if v.ClusterSize != 0 {
		w.line("<clusterSize unit='bytes'>%d</clusterSize>", v.ClusterSize)
	}
	if v.Features.LazyRefcounts || v.Features.ExtendedL2 {
		w.line("<features>")
		if v.Features.LazyRefcounts {
			w.line("  <lazy_refcounts/>")
		}
		if v.Features.ExtendedL2 {
			w.line("  <extended_l2/>")
		}
		w.line("</features>")
	}
	w.depth--
	w.line("</target>")
}

func (w *writer) permissions(p Permissions) {
	if p == (Permissions{}) {
		return
	}
	w.line("<permissions>")
	if p.Mode != nil {
		w.line("  <mode>%#o</mode>", *p.Mode)
	}
	if p.Owner != nil {
		w.line("  <owner>%d</owner>", *p.Owner)
	}
	if p.Group != nil {
		w.line("  <group>%d</group>", *p.Group)
	}
	if p.Label != "" {
		w.line("  <label>%s</label>", p.Label)
	}
	w.line("</permissions>")
}

func (w *writer) encryption(e *Encryption) {
	w.line("<encryption format='%s'>", e.Format)
	switch {
	case e.Secret.UUID != uuid.Nil:
		w.line("  <secret type='passphrase' uuid='%s'/>", e.Secret.UUID.String())
	case e.Secret.Usage != "":
		w.line("  <secret type='passphrase' usage='%s'/>", e.Secret.Usage)
	}
	if c := e.Cipher; c != nil {
		w.line("  <cipher%s/>", attributes{{"name", c.Name}, {"size", fmt.Sprint(c.Size)}, {"mode", c.Mode}, {"hash", c.Hash}})
	}
	if g := e.IVGen; g != nil {
		w.line("  <ivgen%s/>", attributes{{"name", g.Name}, {"hash", g.Hash}})
	}
	if h := e.Header; h != nil {
		attribute := "file"
		if h.Source.Kind == blockgraph.SourceBlock {
			attribute = "dev"
		}
		w.line("  <header%s>", attributes{{"type", string(h.Source.Kind)}})
		w.line("    <source%s/>", attributes{{attribute, h.Source.Path}})
		w.line("  </header>")
	}
	w.line("</encryption>")
}

// attributes are the attributes of an element; those without a value are left out.
type attributes [][2]string

func (a attributes) String() string {
	out := ""
	for _, pair := range a {
		if pair[1] != "" {
			out += fmt.Sprintf(" %s='%s'", pair[0], escapeXML(pair[1]))
		}
	}
	return out
}
