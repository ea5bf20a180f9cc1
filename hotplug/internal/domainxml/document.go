package domainxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/xmltext"
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
	root *Element
}

// Element is one element, with its place in the source.
type Element struct {
	Name     xml.Name
	Attrs    []xml.Attr
	Children []*Element
	Text     string

	source     []byte
	start, end int
	inner      int // where its content begins
	close      int // where its end tag begins; end if it has none
}

// String returns the element's source.
func (e *Element) String() string { return string(e.source[e.start:e.end]) }

// Normalized returns the element's source as every XML parser but Go's reads it: a line
// break or tab between or in the attributes of a tag is a space.
func (e *Element) Normalized() string {
	text := []byte(e.String())
	var all func(*Element)
	all = func(one *Element) {
		for i := one.start - e.start; i < one.inner-e.start; i++ {
			if strings.IndexByte("\t\r\n", text[i]) >= 0 {
				text[i] = ' '
			}
		}
		for _, c := range one.Children {
			all(c)
		}
	}
	all(e)
	return string(text)
}

// Plain returns the element's source, with the prefixes of its name and of all names of
// elements in it removed.
func (e *Element) Plain() string {
	var out strings.Builder
	tag := func(mark string, from, to int) {
		text := string(e.source[from:to])
		if name, rest, prefixed := strings.Cut(strings.TrimPrefix(text, mark), ":"); prefixed && !strings.ContainsAny(name, " \t\r\n/>'\"") {
			text = mark + rest
		}
		out.WriteString(text)
	}
	tag("<", e.start, e.inner)
	at := e.inner
	for _, c := range e.Children {
		out.Write(e.source[at:c.start])
		out.WriteString(c.Plain())
		at = c.end
	}
	out.Write(e.source[at:e.close])
	tag("</", e.close, e.end)
	return out.String()
}

// Parse reads a domain's XML. It returns an error if the text is not well-formed or another
// document.
func Parse(text []byte) (*Document, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("domain XML: %d bytes are more than a domain can need", len(text))
	}
	root, err := ParseElement(text)
	if err != nil {
		return nil, fmt.Errorf("domain XML: %w", err)
	}
	text = root.source // in UTF-8
	if root.Name.Local != "domain" {
		return nil, fmt.Errorf("domain XML: the document is a <%s>, and not a <domain>", root.Name.Local)
	}
	return &Document{text: text, root: root}, nil
}

// ParseElement reads a document and returns its root element. Its source is in UTF-8, see [xmltext.UTF8]. Errors show no
// text of the document, which may be a secret.
func ParseElement(text []byte) (*Element, error) {
	text, err := xmltext.UTF8(text)
	if err != nil {
		return nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	var root *Element
	var stack []*Element
	for {
		at := int(d.InputOffset())
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			line, reason := xmltext.SyntaxReason(err)
			if line == 0 {
				return nil, errors.New(reason)
			}
			return nil, fmt.Errorf("syntax error on line %d: %s", line, reason)
		}
		switch t := token.(type) {
		case xml.StartElement:
			e := &Element{Name: t.Name, Attrs: slices.Clone(t.Attr), source: text, start: at, inner: int(d.InputOffset())}
			switch {
			case len(stack) >= maxDepth:
				return nil, errors.New("elements are nested too deep")
			case len(stack) > 0:
				parent := stack[len(stack)-1]
				parent.Children = append(parent.Children, e)
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
				stack[len(stack)-1].Text += string(t)
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
		return strings.TrimSpace(e.Text)
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

// Has reports whether the domain has an element at the path.
func (d *Document) Has(path ...string) bool { return d.find(path) != nil }

func (d *Document) find(path []string) *Element {
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

// CanonicalUUID returns the domain's UUID as libvirt writes it: lower case, with dashes. It
// returns "" if there is none, or if it is not a UUID: it becomes the name of directories.
func (d *Document) CanonicalUUID() string {
	id, err := uuid.Parse(d.UUID())
	if err != nil || len(d.UUID()) != len(id.String()) {
		return ""
	}
	return id.String()
}

// Label returns the label that the domain's QEMU has in a security model, such as "dac"; ""
// if the document has none. A client who may edit the domain can have chosen it.
func (d *Document) Label(model string) string { return d.label(model, "label", "") }

// GeneratedLabel is [Document.Label] for a label that libvirt has generated itself:
// libvirt ignores one that a definition has of this type.
func (d *Document) GeneratedLabel(model string) string { return d.label(model, "label", "dynamic") }

// GeneratedImageLabel returns the label that libvirt has generated for the domain's images
// in a security model; "" if the document has none.
func (d *Document) GeneratedImageLabel(model string) string {
	return d.label(model, "imagelabel", "dynamic")
}

// label returns a label of a model, and of a type unless that is "".
func (d *Document) label(model, kind, typ string) string {
	for _, e := range d.root.Children {
		if e.Name.Local == "seclabel" && e.attr("model") == model && (typ == "" || e.attr("type") == typ) {
			if label := e.child(xml.Name{Local: kind}); label != nil {
				return strings.TrimSpace(label.Text)
			}
		}
	}
	return ""
}

// metadata returns <metadata> and the element of a namespace in it, nil if there is none.
func (d *Document) metadata(space string) (all, one *Element) {
	if all = d.root.child(xml.Name{Local: "metadata"}); all == nil {
		return nil, nil
	}
	i := slices.IndexFunc(all.Children, func(e *Element) bool { return e.Name.Space == space })
	if i < 0 {
		return all, nil
	}
	return all, all.Children[i]
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

func (e *Element) child(name xml.Name) *Element {
	i := slices.IndexFunc(e.Children, func(c *Element) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return e.Children[i]
}

func (e *Element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}
