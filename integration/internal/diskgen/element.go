package diskgen

import (
	"encoding/xml"
	"slices"
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

// element returns an element with attributes, names and values in turn, without those that are empty.
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

// add adds children other than nil.
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
	text, err := xml.MarshalIndent(e, "", "  ")
	if err != nil {
		panic(err) // cannot happen: names are fixed, and any text can be encoded
	}
	return string(text) + "\n"
}

// MarshalXML implements xml.Marshaler.
func (e *Element) MarshalXML(enc *xml.Encoder, start xml.StartElement) error {
	start.Name.Local = e.Name
	for _, a := range e.Attrs {
		start.Attr = append(start.Attr, xml.Attr{Name: xml.Name{Local: a.Name}, Value: a.Value})
	}
	return enc.EncodeElement(struct {
		Text     string `xml:",chardata"`
		Children []*Element
	}{e.Text, e.Children}, start)
}

// clone returns a deep copy.
func (e *Element) clone() *Element {
	out := &Element{Name: e.Name, Text: e.Text, Attrs: slices.Clone(e.Attrs)}
	for _, c := range e.Children {
		out.Children = append(out.Children, c.clone())
	}
	return out
}

// child returns the first child with a name, or nil.
func (e *Element) child(name string) *Element {
	for _, c := range e.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// attr returns the value of an attribute. It is "" if there is no such attribute or e is nil.
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
