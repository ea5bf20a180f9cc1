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

// Bounds, far above any real domain.
const (
	maxBytes = 16 << 20
	maxDepth = 128
)

// Document is the XML of a domain. It is immutable.
type Document struct {
	text []byte
	root *element
}

// element is one element and its place in the text.
type element struct {
	name       xml.Name
	attrs      []xml.Attr
	start, end int
	inner      int // where its content begins
	close      int // where its end tag begins; end if it has none
	children   []*element
	text       string
}

// Parse reads a domain's XML. It returns an error if the text is not well-formed or another
// document.
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

// Value returns the text of the first element at a path below <domain>, such as "devices",
// "emulator"; "" if there is none.
func (d *Document) Value(path ...string) string {
	if e := d.find(path); e != nil {
		return strings.TrimSpace(e.text)
	}
	return ""
}

// Attribute returns an attribute of that element, "" if there is none.
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

// UUID returns the domain's UUID in its spelling.
func (d *Document) UUID() string { return d.Value("uuid") }

// Label returns the label that the domain's QEMU has in a security model, such as "dac"; ""
// if the document has none.
func (d *Document) Label(model string) string { return d.label(model, "label") }

// ImageLabel returns the label that the domain's images have in a security model; "" if the
// document has none.
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

// metadata returns <metadata> and the element of a namespace in it, nil if there is none.
func (d *Document) metadata(space string) (all, one *element) {
	if all = d.root.child(xml.Name{Local: "metadata"}); all == nil {
		return nil, nil
	}
	i := slices.IndexFunc(all.children, func(e *element) bool { return e.name.Space == space })
	if i < 0 {
		return all, nil
	}
	return all, all.children[i]
}

// Metadata returns the element of a namespace in <metadata>, nil if there is none.
func (d *Document) Metadata(space string) []byte {
	_, e := d.metadata(space)
	if e == nil {
		return nil
	}
	return bytes.Clone(d.text[e.start:e.end])
}

// WithMetadata returns the document with this element of a namespace in <metadata>, which
// replaces the present one; nil removes it.
func (d *Document) WithMetadata(space string, text []byte) (*Document, error) {
	metadata, old := d.metadata(space)
	switch {
	case old != nil:
		return d.replace(old, string(text))
	case text == nil:
		return d, nil
	case metadata == nil:
		return d.replace(nil, "<metadata>\n    "+string(text)+"\n  </metadata>")
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
