package diskxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// LocalVolume is the image of a disk on one host. Its Secret is the zero one if it is not encrypted.
type LocalVolume struct {
	Format  blockgraph.Format
	Payload LocalImage
	Header  LocalImage
	Secret  secrets.Reference
}

// ofVolume are the elements of a <disk> that describe its volume: the rest is the device's.
var ofVolume = []string{"source", "backingStore", "encryption", "mirror"}

// ofQcow2 are the attributes of <driver> that only a qcow2 image has.
var ofQcow2 = []string{"discard_no_unref"}

// WithVolume returns a <disk> document with another volume: the same device, with the same serial, address and options. Its
// backing chain is left out, because the volume has none. The rest keeps its text, startupPolicy and <seclabel> included. The
// result is one that [ParseDisk] reads.
//
// The errors are those of [ParseDisk].
func WithVolume(disk []byte, v LocalVolume) ([]byte, error) {
	if _, err := ParseDisk(disk); err != nil {
		return nil, err
	}
	disk, err := utf8Text("", disk)
	if err != nil {
		return nil, err
	}
	r := rewriting{text: disk, volume: v, decoder: xml.NewDecoder(bytes.NewReader(disk))}
	if err := r.run(); err != nil {
		return nil, malformed("", err)
	}
	out := []byte(r.out.String())
	_, err = ParseDisk(out)
	return out, err
}

// rewriting is one run of [WithVolume].
type rewriting struct {
	text    []byte
	volume  LocalVolume
	decoder *xml.Decoder
	out     strings.Builder

	sourced, driven bool // <source> and <driver> are written
}

// run copies the document, element by element of <disk>.
func (r *rewriting) run() error {
	inside := false
	for {
		from := r.decoder.InputOffset()
		token, err := r.decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if !inside {
				inside = true
				kind, _ := r.volume.Payload.source()
				r.out.WriteString(startTag(t, map[string]string{"type": kind}, nil) + ">")
				continue
			}
			if err := r.child(t, from); err != nil {
				return err
			}
		case xml.EndElement:
			if !r.driven {
				r.out.WriteString("  <driver name='qemu' type='" + escape(string(r.volume.Format)) + "'/>\n")
			}
			if !r.sourced {
				r.out.WriteString(r.source("", ""))
			}
			r.out.Write(r.text[from:r.decoder.InputOffset()])
		default:
			r.out.Write(r.text[from:r.decoder.InputOffset()])
		}
	}
}

// child copies, replaces or omits an element of <disk>.
func (r *rewriting) child(t xml.StartElement, from int64) error {
	inner := r.decoder.InputOffset()
	var label string
	for depth := 1; depth > 0; {
		at := r.decoder.InputOffset()
		token, err := r.decoder.Token()
		if err != nil {
			return err
		}
		switch e := token.(type) {
		case xml.StartElement:
			depth++
			if depth == 2 && t.Name.Local == "source" && e.Name.Local == "seclabel" {
				if err := r.decoder.Skip(); err != nil {
					return err
				}
				depth--
				label += "    " + string(r.text[at:r.decoder.InputOffset()]) + "\n"
			}
		case xml.EndElement:
			depth--
		}
	}
	switch name := t.Name.Local; {
	case name == "driver":
		r.driven = true
		r.out.WriteString(r.driver(t, r.text[inner:r.decoder.InputOffset()]))
	case name == "source":
		r.sourced = true
		r.out.WriteString(strings.TrimSuffix(strings.TrimPrefix(r.source(policy(t), label), "  "), "\n"))
	case slices.Contains(ofVolume, name): // omitted, with the space before it
		kept := strings.TrimRight(r.out.String(), " \t\r\n")
		r.out.Reset()
		r.out.WriteString(kept)
	default:
		r.out.Write(r.text[from:r.decoder.InputOffset()])
	}
	return nil
}

// driver returns <driver>. Its children are those of a qcow2 image.
func (r *rewriting) driver(t xml.StartElement, inner []byte) string {
	set := map[string]string{"type": string(r.volume.Format)}
	if r.volume.Format == blockgraph.FormatQcow2 {
		if slices.ContainsFunc(t.Attr, func(a xml.Attr) bool { return a.Name.Local == "type" && a.Value == string(blockgraph.FormatQcow2) }) && len(inner) > 0 {
			return startTag(t, set, nil) + ">" + string(inner)
		}
		return startTag(t, set, nil) + "/>"
	}
	return startTag(t, set, ofQcow2) + "/>"
}

// source returns <source> with an attribute and elements that stay.
func (r *rewriting) source(policy, label string) string {
	_, tag := r.volume.Payload.source()
	var b strings.Builder
	b.WriteString("  " + tag + policy)
	if r.volume.Secret == (secrets.Reference{}) && label == "" {
		b.WriteString("/>\n")
		return b.String()
	}
	b.WriteString(">\n" + label)
	if r.volume.Secret != (secrets.Reference{}) {
		writeEncryption(&b, r.volume.Secret, r.volume.Header)
	}
	b.WriteString("  </source>\n")
	return b.String()
}

// policy returns the attribute startupPolicy with a space before it, "" for none.
func policy(source xml.StartElement) string {
	for _, a := range source.Attr {
		if a.Name.Local == "startupPolicy" {
			return " startupPolicy='" + escape(a.Value) + "'"
		}
	}
	return ""
}

// startTag returns a start tag without its end, with some attributes set and without others.
func startTag(t xml.StartElement, set map[string]string, without []string) string {
	var b strings.Builder
	b.WriteString("<" + t.Name.Local)
	written := map[string]bool{}
	for _, a := range t.Attr {
		name := a.Name.Local
		if a.Name.Space != "" || name == "xmlns" || slices.Contains(without, name) {
			continue
		}
		value := a.Value
		if v, ok := set[name]; ok {
			value = v
		}
		written[name] = true
		fmt.Fprintf(&b, " %s='%s'", name, escape(value))
	}
	for name, value := range set { // one name at most
		if !written[name] {
			fmt.Fprintf(&b, " %s='%s'", name, escape(value))
		}
	}
	return b.String()
}
