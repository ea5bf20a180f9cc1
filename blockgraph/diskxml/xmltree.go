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
	"github.com/luksplug/luksplug/internal/xmltext"
)

// Limits of a document: far above any real disk, and low enough for hostile documents.
const (
	maxXMLBytes = 1 << 20
	maxXMLDepth = 64
)

// element is one element of the document, including those that libvirtxml would silently skip.
type element struct {
	name     string
	path     string // "disk/driver"
	line     int
	attrs    []xml.Attr
	children []*element
	text     string // all of it, without the blanks around it
}

// tokens are the tags and text of a document: an [xml.TokenReader], to parse it only once.
type tokens []xml.Token

// Token removes and returns the first token.
func (t *tokens) Token() (xml.Token, error) {
	if len(*t) == 0 {
		return nil, io.EOF
	}
	first := (*t)[0]
	*t = (*t)[1:]
	return first, nil
}

// outline omits the contents of elements that are read from the tree only: libvirtxml fails
// on an NVMe drive in a <backingStore>.
type outline struct {
	tokens xml.TokenReader
	inside int // how many elements deep
}

// Token returns the next token that is not omitted.
func (o *outline) Token() (xml.Token, error) {
	for {
		token, err := o.tokens.Token()
		switch t := token.(type) {
		case xml.StartElement:
			if o.inside > 0 || slices.Contains([]string{"source", "backingStore", "mirror"}, t.Name.Local) {
				o.inside++
			}
		case xml.EndElement:
			if o.inside > 0 {
				o.inside--
				if err == nil {
					continue
				}
			}
		}
		if o.inside == 0 || err != nil {
			return token, err
		}
	}
}

// readTree reads the single element in data, a <disk>, as a tree and as tokens.
func readTree(data []byte) (*element, *tokens, error) { return readDocument(data, "disk") }

// readDocument reads the single element in data, which errors call by the name of the root element that is expected.
func readDocument(data []byte, root string) (*element, *tokens, error) {
	if len(data) > maxXMLBytes {
		return nil, nil, &XMLError{Reason: fmt.Sprintf("%d bytes are more than a <%s> can need (the bound is %d)", len(data), root, maxXMLBytes)}
	}
	data, err := utf8Text("", data)
	if err != nil {
		return nil, nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(data))
	line := lineCounter(data)
	b := treeBuilder{expected: root}
	for {
		at := d.InputOffset()
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			err := malformed("", err)
			err.Line = max(err.Line, line(at))
			return nil, nil, err
		}
		if err := b.add(token, line(at)); err != nil {
			return nil, nil, err
		}
	}
	if b.root == nil {
		return nil, nil, &XMLError{Reason: fmt.Sprintf("no element was found: give a libvirt <%s> document", root)}
	}
	return b.root, &b.read, nil
}

// treeBuilder makes a tree of tokens.
type treeBuilder struct {
	expected string // the name of the root element, for errors
	root     *element
	read     tokens
	stack    []*element // the elements that are open, the innermost last
}

// add adds a token of this line.
func (b *treeBuilder) add(token xml.Token, line int) error {
	switch t := token.(type) {
	case xml.StartElement:
		return b.start(t, line)
	case xml.EndElement:
		b.stack = b.stack[:len(b.stack)-1]
		b.read = append(b.read, t)
	case xml.CharData:
		if len(b.stack) == 0 {
			if len(bytes.TrimSpace(t)) > 0 {
				return &XMLError{Line: line, Reason: fmt.Sprintf("text is outside of the <%s> element", b.expected)}
			}
			return nil
		}
		if e := b.stack[len(b.stack)-1]; len(bytes.TrimSpace(t)) > 0 {
			e.text = strings.TrimSpace(e.text + string(t))
		}
		b.read = append(b.read, t.Copy())
	case xml.Directive:
		// A document type could define entities; libvirt documents have none.
		return &XMLError{Line: line, Reason: fmt.Sprintf("a <!DOCTYPE> or other declaration is not allowed in %s XML", b.expected)}
	}
	return nil
}

// start opens an element.
func (b *treeBuilder) start(t xml.StartElement, line int) error {
	e := &element{name: t.Name.Local, path: t.Name.Local, line: line, attrs: t.Copy().Attr}
	b.read = append(b.read, xml.StartElement{Name: t.Name, Attr: e.attrs})
	switch {
	case len(b.stack) > 0:
		parent := b.stack[len(b.stack)-1]
		e.path = parent.path + "/" + e.name
		parent.children = append(parent.children, e)
	case b.root != nil:
		return &XMLError{Line: e.line, Reason: fmt.Sprintf("a second element <%s> follows the end of <%s>: give one %s", e.name, b.root.name, b.expected)}
	default:
		b.root = e
	}
	if len(b.stack) >= maxXMLDepth {
		return &XMLError{Line: e.line, Reason: fmt.Sprintf("elements are nested deeper than %d", maxXMLDepth)}
	}
	if t.Name.Space != "" {
		// libvirt reads elements of no namespace only.
		return e.foreign("", "elements", t.Name.Space)
	}
	b.stack = append(b.stack, e)
	return nil
}

func malformed(element string, err error) *XMLError {
	line, reason := xmltext.SyntaxReason(err)
	return &XMLError{Element: element, Line: line, Reason: reason}
}

// utf8Text returns a document in UTF-8; see [xmltext.UTF8].
func utf8Text(element string, data []byte) ([]byte, error) {
	text, err := xmltext.UTF8(data)
	if err != nil {
		return nil, &XMLError{Element: element, Line: 1, Reason: err.Error()}
	}
	return text, nil
}

// lineCounter returns a function that returns the line of an offset. Offsets must not decrease.
func lineCounter(data []byte) func(int64) int {
	line, last := 1, int64(0)
	return func(offset int64) int {
		line += bytes.Count(data[last:offset], []byte{'\n'})
		last = offset
		return line
	}
}

// child returns the first child called name, nil when there is none.
func (e *element) child(name string) *element {
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// find returns the first element with this path, nil when there is none.
func (e *element) find(path string) *element {
	if e.path == path {
		return e
	}
	for _, c := range e.children {
		if found := c.find(path); found != nil {
			return found
		}
	}
	return nil
}

// attr returns the attribute called name, "" when there is none.
func (e *element) attr(name string) string {
	for _, a := range e.attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (e *element) invalid(attr, format string, args ...any) error {
	return &XMLError{Element: e.at(attr), Line: e.line, Reason: fmt.Sprintf(format, args...)}
}

func (e *element) unsupported(attr, format string, args ...any) error {
	return &blockgraph.UnsupportedError{Element: e.at(attr), Reason: fmt.Sprintf(format, args...)}
}

func (e *element) at(attr string) string {
	if attr == "" {
		return e.path
	}
	return e.path + "@" + attr
}
