package record

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
)

// Parse reads the element. Elements and attributes that it does not know are
// refused: a later luksplug has written them, and they mean something.
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
	err := attributes(start, map[string]func(string){
		"user":      func(v string) { r.User = v },
		"cold-plug": func(v string) { r.ColdPlug = v == "yes" },
	})
	if err != nil {
		return r, err
	}
	err = p.children(func(_ int64, e xml.StartElement) error {
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
	return r, err
}

func (p *parser) disk(start xml.StartElement) (Disk, error) {
	var d Disk
	err := attributes(start, map[string]func(string){
		"target":         func(v string) { d.Target = v },
		"start":          func(v string) { d.Start = blockgraph.Method(v) },
		"optional":       func(v string) { d.Optional = v == "yes" },
		"shared-header":  func(v string) { d.AllowSharedHeader = v == "yes" },
		"relabel":        func(v string) { d.Relabel = v == "yes" },
		"ignore-unknown": func(v string) { d.IgnoreUnknown = v == "yes" },
		"tls-dir":        func(v string) { d.TLSFolder = v },
		"tls-secret":     func(v string) { d.TLSSecret = v },
		"tls-psk":        func(v string) { d.TLSUser = v },
	})
	if err != nil {
		return d, err
	}
	err = p.children(func(at int64, e xml.StartElement) error {
		switch {
		case is(e, "device"):
			var o blockgraph.Object
			err := p.json(e, &o)
			d.Devices = append(d.Devices, o)
			return err
		case is(e, "owner"):
			var o access.Owner
			err := p.json(e, &o)
			d.Owners = append(d.Owners, o)
			return err
		case is(e, "pool"):
			var pool blockgraph.Pool
			err := p.json(e, &pool)
			d.Pools = append(d.Pools, pool)
			return err
		case is(e, "disk"):
			if d.XML != "" {
				return fmt.Errorf("the record of disk %s has two <disk>", d.Target)
			}
			var err error
			d.XML, err = p.plain(at)
			return err
		}
		return unknown(e)
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

// is reports whether an element is of this name, and ours. libvirt gives all elements
// that its metadata are set to the namespace of the outermost, and takes it away
// again when it is asked for them.
func is(e xml.StartElement, name string) bool {
	return e.Name.Local == name && (e.Name.Space == "" || e.Name.Space == Namespace)
}

// plain reads an element to its end, which began at a place in the text, and
// returns its text without our namespace.
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

// json reads an element that holds JSON.
func (p *parser) json(e xml.StartElement, into any) error {
	var text string
	if err := p.decoder.DecodeElement(&text, &e); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("the <%s> of a disk: %w", e.Name.Local, err)
	}
	return nil
}

// children calls f for each child of the element that was begun, with its place
// in the text; f reads the child to its end.
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

// attributes hands each attribute to its function.
func attributes(e xml.StartElement, known map[string]func(string)) error {
	for _, a := range e.Attr {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			continue
		}
		set, ok := known[a.Name.Local]
		if !ok || a.Name.Space != "" {
			return fmt.Errorf("the attribute %s of <%s> is not known: a later luksplug has written it", a.Name.Local, e.Name.Local)
		}
		set(a.Value)
	}
	return nil
}

func unknown(e xml.StartElement) error {
	return fmt.Errorf("the element <%s> is not known: a later luksplug has written it", e.Name.Local)
}
