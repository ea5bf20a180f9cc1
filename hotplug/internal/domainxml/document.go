package domainxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// QEMU is the namespace of <qemu:commandline>.
const QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"

// Bounds on what is read: far above any real domain.
const (
	maxBytes = 16 << 20
	maxDepth = 128
)

// Document is the XML of a domain. It is not changed once it is parsed, and may be
// used by many goroutines.
type Document struct {
	text []byte
	root *element
}

// element is one element and its place in the text.
type element struct {
	name       xml.Name
	attrs      []xml.Attr
	start, end int // of all of it
	inner      int // where its content begins
	close      int // where its end tag begins; = inner where it has none
	children   []*element
	text       string
}

// Parse reads a domain's XML. It fails for what is no well-formed XML and for
// another document.
func Parse(text []byte) (*Document, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("domain XML: %d bytes are more than a domain can need", len(text))
	}
	root, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("domain XML: %w", err)
	}
	if root.name.Local != "domain" {
		return nil, fmt.Errorf("domain XML: the document is a <%s>, and not a <domain>", root.name.Local)
	}
	return &Document{text: text, root: root}, nil
}

func parse(text []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(text))
	var root *element
	var stack []*element
	for {
		at := int(d.InputOffset())
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			e := &element{name: t.Name, attrs: slices.Clone(t.Attr), start: at, inner: int(d.InputOffset())}
			switch {
			case len(stack) >= maxDepth:
				return nil, errors.New("elements are nested too deep")
			case len(stack) > 0:
				parent := stack[len(stack)-1]
				parent.children = append(parent.children, e)
			case root != nil:
				return nil, errors.New("a second element follows the first")
			default:
				root = e
			}
			stack = append(stack, e)
		case xml.EndElement:
			e := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			e.close, e.end = at, int(d.InputOffset())
		case xml.CharData:
			if len(stack) > 0 {
				stack[len(stack)-1].text += string(t)
			}
		}
	}
	if root == nil {
		return nil, errors.New("there is no element")
	}
	return root, nil
}

// Text returns the document.
func (d *Document) Text() []byte { return bytes.Clone(d.text) }

// Value returns the text of the first element at a path below <domain>, such as
// "devices", "emulator"; "" where there is none.
func (d *Document) Value(path ...string) string {
	if e := d.find(path); e != nil {
		return strings.TrimSpace(e.text)
	}
	return ""
}

// Attribute returns an attribute of that element, "" where there is none.
func (d *Document) Attribute(name string, path ...string) string {
	if e := d.find(path); e != nil {
		return e.attr(name)
	}
	return ""
}

func (d *Document) find(path []string) *element {
	e := d.root
	for _, name := range path {
		if e = e.child(xml.Name{Local: name}); e == nil {
			return nil
		}
	}
	return e
}

// Name returns the domain's name.
func (d *Document) Name() string { return d.Value("name") }

// UUID returns the domain's UUID, as it is written.
func (d *Document) UUID() string { return d.Value("uuid") }

// Label returns the label of a security model, such as "dac", that the domain's
// QEMU has; "" where the document does not say.
func (d *Document) Label(model string) string { return d.label(model, "label") }

// ImageLabel returns the label that the images of the domain have for a security
// model; "" where the document does not say.
func (d *Document) ImageLabel(model string) string { return d.label(model, "imagelabel") }

func (d *Document) label(model, kind string) string {
	for _, e := range d.root.children {
		if e.name.Local == "seclabel" && e.attr("model") == model {
			if label := e.child(xml.Name{Local: kind}); label != nil {
				return strings.TrimSpace(label.text)
			}
		}
	}
	return ""
}

// Metadata returns the element of a namespace in <metadata>, nil where there is
// none.
func (d *Document) Metadata(space string) []byte {
	metadata := d.root.child(xml.Name{Local: "metadata"})
	if metadata == nil {
		return nil
	}
	for _, e := range metadata.children {
		if e.name.Space == space {
			return bytes.Clone(d.text[e.start:e.end])
		}
	}
	return nil
}

// WithMetadata returns the document with this element of a namespace in
// <metadata>, in place of the one that is there; nil removes it.
func (d *Document) WithMetadata(space string, text []byte) (*Document, error) {
	metadata := d.root.child(xml.Name{Local: "metadata"})
	if metadata == nil {
		if text == nil {
			return d, nil
		}
		return d.replace(nil, "<metadata>\n    "+string(text)+"\n  </metadata>")
	}
	i := slices.IndexFunc(metadata.children, func(e *element) bool { return e.name.Space == space })
	switch {
	case i >= 0:
		return d.replace(metadata.children[i], string(text))
	case text == nil:
		return d, nil
	}
	var inner []byte
	if metadata.close < metadata.end { // not <metadata/>
		inner = d.text[metadata.inner:metadata.close]
	}
	return d.replace(metadata, "<metadata>"+string(inner)+string(text)+"\n  </metadata>")
}

func (e *element) child(name xml.Name) *element {
	i := slices.IndexFunc(e.children, func(c *element) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return e.children[i]
}

func (e *element) attr(name string) string {
	for _, a := range e.attrs {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}
