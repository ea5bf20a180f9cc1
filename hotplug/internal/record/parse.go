package record

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// Parse reads the element. It refuses unknown elements and attributes: a later luksplug has
// written them, and they have a meaning.
func Parse(text []byte) (Record, error) {
	r, err := parse(text)
	if err != nil {
		return Record{}, fmt.Errorf("luksplug's metadata of the domain: %w", err)
	}
	return r, nil
}

func parse(text []byte) (Record, error) {
	p := parser{text: text, decoder: xml.NewDecoder(bytes.NewReader(text))}
	var r Record
	for {
		token, err := p.decoder.Token()
		if errors.Is(err, io.EOF) {
			return r, errors.New("there is no element")
		}
		if err != nil {
			return r, err
		}
		if start, ok := token.(xml.StartElement); ok {
			if !is(start, "disks") {
				return r, fmt.Errorf("the element is a <%s> of %q", start.Name.Local, start.Name.Space)
			}
			return p.record(start)
		}
	}
}

type parser struct {
	text    []byte
	decoder *xml.Decoder
}

func (p *parser) record(start xml.StartElement) (Record, error) {
	var r Record
	if err := setAttributes(start, r.attributes()); err != nil {
		return r, err
	}
	return r, p.children(func(_ int64, e xml.StartElement) error {
		if !is(e, "disk") {
			return unknown(e)
		}
		d, err := p.disk(e)
		if err == nil && r.Disk(d.Target) != nil {
			err = fmt.Errorf("disk %s is recorded twice", d.Target)
		}
		r.Disks = append(r.Disks, d)
		return err
	})
}

func (p *parser) disk(start xml.StartElement) (Disk, error) {
	var d Disk
	if err := setAttributes(start, d.attributes()); err != nil {
		return d, err
	}
	err := p.children(func(at int64, e xml.StartElement) (err error) {
		switch {
		case is(e, "device"):
			d.Devices, err = appendJSON(p, e, d.Devices)
		case is(e, "owner"):
			d.Owners, err = appendJSON(p, e, d.Owners)
		case is(e, "pool"):
			d.Pools, err = appendJSON(p, e, d.Pools)
		case is(e, "disk") && d.XML != "":
			err = fmt.Errorf("the record of disk %s has two <disk>", d.Target)
		case is(e, "disk"):
			d.XML, err = p.plain(at)
		default:
			err = unknown(e)
		}
		return err
	})
	switch {
	case err != nil:
		return d, err
	case d.Target == "" || d.XML == "":
		return d, errors.New("the record of a disk lacks its target or its <disk>")
	case d.Start != "" && d.Start != blockgraph.MethodQEMU && d.Start != blockgraph.MethodEphemeralHeader:
		return d, fmt.Errorf("the record of disk %s has the unknown way to start %q", d.Target, d.Start)
	}
	return d, nil
}

// is reports whether an element has this name and is luksplug's. libvirt puts all elements
// of metadata that it is given into the namespace of the outermost one, and removes it when
// it returns them.
func is(e xml.StartElement, name string) bool {
	return e.Name.Local == name && (e.Name.Space == "" || e.Name.Space == Namespace)
}

// plain reads to the end of an element that begins at a place in the text, and returns its
// text without luksplug's namespace.
func (p *parser) plain(at int64) (string, error) {
	var out strings.Builder
	tag := func(mark string) {
		text := string(p.text[at:p.decoder.InputOffset()])
		if name, rest, prefixed := strings.Cut(strings.TrimPrefix(text, mark), ":"); prefixed && !strings.ContainsAny(name, " \t\r\n/>'\"") {
			text = mark + rest
		}
		out.WriteString(text)
	}
	tag("<")
	for depth := 1; depth > 0; {
		at = p.decoder.InputOffset()
		token, err := p.decoder.Token()
		if err != nil {
			return "", err
		}
		switch token.(type) {
		case xml.StartElement:
			depth++
			tag("<")
		case xml.EndElement:
			depth--
			tag("</")
		default:
			out.Write(p.text[at:p.decoder.InputOffset()])
		}
	}
	return out.String(), nil
}

// appendJSON reads an element that holds JSON.
func appendJSON[T any](p *parser, e xml.StartElement, to []T) ([]T, error) {
	var text string
	if err := p.decoder.DecodeElement(&text, &e); err != nil {
		return nil, err
	}
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return nil, fmt.Errorf("the <%s> of a disk: %w", e.Name.Local, err)
	}
	return append(to, value), nil
}

// children calls f for each child of the begun element, with its place in the text. f reads
// the child to its end.
func (p *parser) children(f func(at int64, e xml.StartElement) error) error {
	for {
		at := p.decoder.InputOffset()
		token, err := p.decoder.Token()
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if err := f(at, t.Copy()); err != nil {
				return err
			}
		case xml.EndElement:
			return nil
		}
	}
}

func setAttributes(e xml.StartElement, known []attribute) error {
	for _, a := range e.Attr {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			continue
		}
		i := slices.IndexFunc(known, func(k attribute) bool { return k.name == a.Name.Local })
		if i < 0 || a.Name.Space != "" {
			return fmt.Errorf("the attribute %s of <%s> is not known: a later luksplug has written it", a.Name.Local, e.Name.Local)
		}
		known[i].set(a.Value)
	}
	return nil
}

func unknown(e xml.StartElement) error {
	return fmt.Errorf("the element <%s> is not known: a later luksplug has written it", e.Name.Local)
}
