package diskgen

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// Element is an element of XML.
type Element struct {
	Name     string
	Attrs    []Attr
	Children []*Element
	Text     string
}

// Attr is an attribute of an Element.
type Attr struct{ Name, Value string }

// element returns an element with the attributes whose names and values follow
// each other; one whose value is empty is left out.
func element(name string, attrs ...string) *Element {
	return (&Element{Name: name}).set(attrs...)
}

// set adds attributes, like [element].
func (e *Element) set(attrs ...string) *Element {
	for i := 0; i < len(attrs); i += 2 {
		if attrs[i+1] != "" {
			e.Attrs = append(e.Attrs, Attr{attrs[i], attrs[i+1]})
		}
	}
	return e
}

// add adds children; nil is none.
func (e *Element) add(children ...*Element) *Element {
	for _, c := range children {
		if c != nil {
			e.Children = append(e.Children, c)
		}
	}
	return e
}

// text returns an element that holds text.
func text(name, content string) *Element { return &Element{Name: name, Text: content} }

// String returns the XML, an element a line.
func (e *Element) String() string {
	var b strings.Builder
	e.write(&b, "")
	return b.String()
}

func (e *Element) write(b *strings.Builder, indent string) {
	fmt.Fprintf(b, "%s<%s", indent, e.Name)
	for _, a := range e.Attrs {
		fmt.Fprintf(b, " %s='%s'", a.Name, escape(a.Value))
	}
	switch {
	case len(e.Children) > 0:
		b.WriteString(">\n")
		for _, c := range e.Children {
			c.write(b, indent+"  ")
		}
		fmt.Fprintf(b, "%s</%s>\n", indent, e.Name)
	case e.Text != "":
		fmt.Fprintf(b, ">%s</%s>\n", escape(e.Text), e.Name)
	default:
		b.WriteString("/>\n")
	}
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

// clone returns a copy that shares nothing.
func (e *Element) clone() *Element {
	out := &Element{Name: e.Name, Text: e.Text, Attrs: append([]Attr(nil), e.Attrs...)}
	for _, c := range e.Children {
		out.Children = append(out.Children, c.clone())
	}
	return out
}

// child returns the first child of a name, nil where there is none.
func (e *Element) child(name string) *Element {
	for _, c := range e.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// attr returns the value of an attribute, "" where there is none, or no element.
func (e *Element) attr(name string) string {
	if e != nil {
		for _, a := range e.Attrs {
			if a.Name == name {
				return a.Value
			}
		}
	}
	return ""
}
