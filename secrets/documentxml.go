package secrets

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/similar"
	"github.com/luksplug/luksplug/internal/xmltext"
)

// maxDocument is the largest size of a document in bytes, far above any real one.
const maxDocument = 256 << 10

// escaper escapes text as libvirt does, including quotation marks. Documents contain no carriage return, which an XML
// parser would turn into a newline (XML 1.0 section 2.11).
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")

// XML returns d in the form of virsh secret-dumpxml: equal documents give equal bytes. d must be valid, except that
// its uuid may be missing.
func (d Document) XML() []byte {
	var b strings.Builder
	yesNo := map[bool]string{false: "no", true: "yes"}
	fmt.Fprintf(&b, "<secret ephemeral='%s' private='%s'>\n", yesNo[d.Ephemeral], yesNo[d.Private])
	if d.UUID != uuid.Nil {
		fmt.Fprintf(&b, "  <uuid>%s</uuid>\n", d.UUID)
	}
	if d.Description != "" {
		fmt.Fprintf(&b, "  <description>%s</description>\n", escaper.Replace(d.Description))
	}
	if d.UsageType != UsageNone {
		name := d.UsageType.element()
		fmt.Fprintf(&b, "  <usage type='%s'>\n    <%s>%s</%s>\n  </usage>\n", d.UsageType, name, escaper.Replace(d.Usage), name)
	}
	b.WriteString("</secret>\n")
	return []byte(b.String())
}

// element is one element of a document.
type element struct {
	path     string // "secret/usage"
	name     string
	line     int
	attrs    map[string]string
	children []*element
	text     []byte
}

// ParseDocument parses libvirt's <secret> document (https://libvirt.org/formatsecret.html). It is strict: an unknown
// attribute, element or text, which libvirt ignores, is an error, so that a misspelt private='yes' does not make a
// public secret. Without <uuid> the result has the zero UUID, and the caller that defines the secret generates one.
// Every error wraps [ErrInvalidDocument] and names the line.
func ParseDocument(data []byte) (Document, error) {
	d, err := parseDocument(data)
	if err != nil {
		return Document{}, err
	}
	return d, nil
}

func parseDocument(data []byte) (d Document, err error) {
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
				d.UUID, err = ParseUUID(strings.TrimSpace(string(e.text)))
			}
			if errors.Is(err, ErrInvalidReference) {
				err = e.invalid("the text of <uuid> is not a uuid: write it like 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f, or leave the element out; it is not shown, as it may be the secret")
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
		whole.UUID = uuid.Max // the caller generates it
	}
	return d, whole.Validate()
}

// element returns the name of the element in <usage> that holds the usage.
func (u UsageType) element() string {
	switch u {
	case UsageVolume:
		return "volume"
	case UsageISCSI:
		return "target"
	}
	return "name"
}

// usage parses <usage>. libvirt writes type='none' for a secret without usage.
func (e *element) usage() (UsageType, string, error) {
	written, given := e.attrs["type"]
	u := UsageType(written)
	switch {
	case !given:
		return "", "", e.invalid("<usage> needs type=: volume, ceph, iscsi, tls or vtpm")
	case written == "none":
		return UsageNone, "", e.only([]string{"type"})
	case u == UsageNone || !u.Valid():
		return "", "", e.invalid("unknown usage type=%q: use volume, ceph, iscsi, tls or vtpm", shorten(written))
	}
	name := u.element()
	if err := e.only([]string{"type"}, name); err != nil {
		return "", "", err
	}
	if len(e.children) == 0 || len(e.children[0].text) == 0 {
		return "", "", e.invalid("a usage of type=%q needs <%s> that is not empty", written, name)
	}
	return u, string(e.children[0].text), e.children[0].leaf()
}

// flag returns an attribute whose value is yes or no; no if it is missing.
func (e *element) flag(name string) (bool, error) {
	value, given := e.attrs[name]
	switch {
	case !given || value == "no":
		return false, nil
	case value == "yes":
		return true, nil
	}
	return false, e.invalid("%s=%q must be yes or no", name, shorten(value))
}

// only refuses attributes and elements other than the given ones, repeated
// elements, and text.
func (e *element) only(attrs []string, children ...string) error {
	if err := e.onlyAttributes(attrs...); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, c := range e.children {
		switch {
		case !slices.Contains(children, c.name):
			return c.invalid("<%s> is not known%s", c.path, suggest(c.name, children))
		case seen[c.name]:
			return c.invalid("there is a second <%s>", c.name)
		}
		seen[c.name] = true
	}
	if text := strings.TrimSpace(string(e.text)); text != "" {
		return e.invalid("<%s> contains text, where none is allowed: the document only describes a secret, whose value is set apart, so remove it; it is not shown, as it may be the secret", e.path)
	}
	return nil
}

func (e *element) onlyAttributes(attrs ...string) error {
	for name := range e.attrs {
		if !slices.Contains(attrs, name) {
			return e.invalid("the attribute %s= of <%s> is not known%s", name, e.path, suggest(name, attrs))
		}
	}
	return nil
}

// suggest returns a hint with the known name that was probably meant, "" for none.
func suggest(name string, known []string) string {
	if meant := similar.Misspelt(name, known); meant != "" {
		return ": did you mean " + meant + "?"
	}
	return ""
}

// leaf refuses attributes and elements in an element that may contain only text.
func (e *element) leaf() error {
	if len(e.children) > 0 {
		return e.children[0].invalid("<%s> is not known", e.children[0].path)
	}
	return e.onlyAttributes()
}

func (e *element) invalid(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrInvalidDocument, e.line, fmt.Sprintf(format, args...))
}

func shorten(s string) string {
	const enough = 40
	if len(s) > enough {
		return s[:enough] + "..."
	}
	return s
}

// readTree parses data, which must contain exactly one root element.
func readTree(data []byte) (*element, error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("%w: %d bytes are too many for a <secret> document (the limit is %d)", ErrInvalidDocument, len(data), maxDocument)
	}
	data, err := xmltext.UTF8(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidDocument, err)
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
			_, reason := xmltext.SyntaxReason(err) // the decoder is in the line of the error
			return nil, at("%s", reason)
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
				return nil, at("text is outside of the <secret> element")
			}
		case xml.Directive:
			return nil, at("a <!DOCTYPE> or other declaration is not allowed in a <secret> document")
		}
	}
}

// begin returns the element of a start tag. Namespaces are refused: libvirt uses
// none in this format.
func begin(decoder *xml.Decoder, tag xml.StartElement) (*element, error) {
	line, _ := decoder.InputPos()
	e := &element{name: tag.Name.Local, path: tag.Name.Local, line: line, attrs: map[string]string{}}
	if tag.Name.Space != "" {
		return nil, e.invalid("<%s> is in a namespace: none is allowed", e.name)
	}
	for _, a := range tag.Attr {
		name := a.Name.Local
		if a.Name.Space != "" {
			return nil, e.invalid("the attribute %s= of <%s> is in a namespace: none is allowed", name, e.name)
		}
		if _, twice := e.attrs[name]; twice {
			return nil, e.invalid("the attribute %s= is given twice", name)
		}
		e.attrs[name] = a.Value
	}
	return e, nil
}
