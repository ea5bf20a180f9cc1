package document

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// maxBytes is far above any real document.
const maxBytes = 256 << 10

// element is one element of the document.
type element struct {
	path     string // "secret/usage"
	name     string
	line     int
	attrs    map[string]string
	children []*element
	text     []byte
}

// Parse reads the one <secret> document that data holds. A document without uuid
// has the zero one: the caller that defines it generates one. Every error wraps
// [secrets.ErrInvalidDocument] and says the line.
func Parse(data []byte) (secrets.Document, error) {
	d, err := parse(data)
	if err != nil {
		return secrets.Document{}, err
	}
	return d, nil
}

func parse(data []byte) (d secrets.Document, err error) {
	root, err := readTree(data)
	if err != nil {
		return d, err
	}
	if root.name != "secret" {
		return d, root.invalid("<%s> is not a <secret> document", root.name)
	}
	if err := root.only([]string{"ephemeral", "private"}, "uuid", "description", "usage"); err != nil {
		return d, err
	}
	if d.Ephemeral, err = root.flag("ephemeral"); err != nil {
		return d, err
	}
	if d.Private, err = root.flag("private"); err != nil {
		return d, err
	}
	for _, e := range root.children {
		switch e.name {
		case "uuid":
			if err = e.leaf(); err == nil {
				d.UUID, err = secrets.ParseUUID(strings.TrimSpace(string(e.text)))
			}
			if errors.Is(err, secrets.ErrInvalidReference) {
				err = e.invalid("%v", err)
			}
		case "description":
			d.Description, err = string(e.text), e.leaf()
		case "usage":
			d.UsageType, d.Usage, err = e.usage()
		}
		if err != nil {
			return d, err
		}
	}
	whole := d
	if whole.UUID == uuid.Nil {
		whole.UUID = uuid.Max // that it gets one is for later
	}
	return d, whole.Validate()
}

// nameElement returns the element in <usage> that holds the name.
func nameElement(u secrets.UsageType) string {
	switch u {
	case secrets.UsageVolume:
		return "volume"
	case secrets.UsageISCSI:
		return "target"
	}
	return "name"
}

// usage reads <usage>. libvirt writes type='none' for none.
func (e *element) usage() (secrets.UsageType, string, error) {
	written, given := e.attrs["type"]
	u := secrets.UsageType(written)
	switch {
	case !given:
		return "", "", e.invalid("<usage> needs type=: volume, ceph, iscsi, tls or vtpm")
	case written == "none":
		return secrets.UsageNone, "", e.only([]string{"type"})
	case u == secrets.UsageNone || !u.Valid():
		return "", "", e.invalid("unknown usage type=%q: use volume, ceph, iscsi, tls or vtpm", written)
	}
	name := nameElement(u)
	if err := e.only([]string{"type"}, name); err != nil {
		return "", "", err
	}
	if len(e.children) == 0 || len(e.children[0].text) == 0 {
		return "", "", e.invalid("a usage of type=%q needs <%s>, which is not empty", written, name)
	}
	return u, string(e.children[0].text), e.children[0].leaf()
}

// flag reads an attribute that is yes or no; no where it is missing.
func (e *element) flag(name string) (bool, error) {
	value, given := e.attrs[name]
	switch {
	case !given || value == "no":
		return false, nil
	case value == "yes":
		return true, nil
	}
	return false, e.invalid("%s=%q must be yes or no", name, value)
}

// only refuses all but the given attributes, and elements, each of which may be
// there once.
func (e *element) only(attrs []string, children ...string) error {
	if err := e.onlyAttributes(attrs...); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, c := range e.children {
		known := false
		for _, name := range children {
			known = known || c.name == name
		}
		switch {
		case !known:
			return c.invalid("<%s> is not known", c.path)
		case seen[c.name]:
			return c.invalid("there is a second <%s>", c.name)
		}
		seen[c.name] = true
	}
	if text := strings.TrimSpace(string(e.text)); text != "" {
		return e.invalid("<%s> holds the text %q, and no text belongs there", e.path, shorten(text))
	}
	return nil
}

func (e *element) onlyAttributes(attrs ...string) error {
	for name := range e.attrs {
		known := false
		for _, a := range attrs {
			known = known || a == name
		}
		if !known {
			return e.invalid("the attribute %s= of <%s> is not known", name, e.path)
		}
	}
	return nil
}

// leaf refuses attributes and elements in an element that has text only.
func (e *element) leaf() error {
	if len(e.children) > 0 {
		return e.children[0].invalid("<%s> is not known", e.children[0].path)
	}
	return e.onlyAttributes()
}

func (e *element) invalid(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", secrets.ErrInvalidDocument, e.line, fmt.Sprintf(format, args...))
}

func shorten(s string) string {
	const enough = 40
	if len(s) > enough {
		return s[:enough] + "..."
	}
	return s
}

// readTree reads the one element that data holds.
func readTree(data []byte) (*element, error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("%w: %d bytes are more than a <secret> can need (the bound is %d)", secrets.ErrInvalidDocument, len(data), maxBytes)
	}
	decoder := xml.NewDecoder(bytes.NewReader(data))
	at := func(format string, args ...any) error {
		line, _ := decoder.InputPos()
		return (&element{line: line}).invalid(format, args...)
	}
	var root *element
	var stack []*element
	for {
		token, err := decoder.Token()
		switch {
		case errors.Is(err, io.EOF) && root == nil:
			return nil, at("no element was found: give a <secret> document")
		case errors.Is(err, io.EOF):
			return root, nil
		case err != nil:
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				return nil, (&element{line: syntax.Line}).invalid("%s", syntax.Msg)
			}
			return nil, at("%v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if len(stack) == 0 && root != nil {
				return nil, at("a second element <%s> follows the end of <%s>: give one document", token.Name.Local, root.name)
			}
			e, err := begin(decoder, token)
			if err != nil {
				return nil, err
			}
			if len(stack) == 0 {
				root = e
			} else {
				parent := stack[len(stack)-1]
				e.path = parent.path + "/" + e.name
				parent.children = append(parent.children, e)
			}
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			switch {
			case len(stack) > 0:
				e := stack[len(stack)-1]
				e.text = append(e.text, token...)
			case len(bytes.TrimSpace(token)) > 0:
				return nil, at("text stands outside of the <secret> element")
			}
		case xml.Directive:
			return nil, at("a <!DOCTYPE> or other declaration has no place in a <secret> document")
		}
	}
}

// begin makes the element of a start tag. Namespaces are refused: libvirt has
// none here.
func begin(decoder *xml.Decoder, tag xml.StartElement) (*element, error) {
	line, _ := decoder.InputPos()
	e := &element{name: tag.Name.Local, path: tag.Name.Local, line: line, attrs: map[string]string{}}
	if tag.Name.Space != "" {
		return nil, e.invalid("<%s> is in the namespace %q, and belongs in none", e.name, shorten(tag.Name.Space))
	}
	for _, a := range tag.Attr {
		name := a.Name.Local
		if a.Name.Space != "" {
			name = a.Name.Space + ":" + name
		}
		if _, twice := e.attrs[name]; twice {
			return nil, e.invalid("the attribute %s= is given twice", name)
		}
		e.attrs[name] = a.Value
	}
	return e, nil
}
