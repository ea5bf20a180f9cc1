package diskxml

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/internal/similar"
)

// skipped records what was removed from a document. A nil one removes nothing.
type skipped struct {
	words []string
}

// cut removes names unknown to r from e, and reports whether there were any.
func (s *skipped) cut(r *rule, e *element) bool {
	if s == nil || slices.Contains(strings.Split(e.path, "/"), "encryption") {
		return false
	}
	before := len(s.words)
	known := slices.Concat(r.attrs, r.inert, r.notAttrs, r.others)
	// A copy: the tokens that libvirtxml reads have the same attributes.
	e.attrs = slices.DeleteFunc(slices.Clone(e.attrs), func(a xml.Attr) bool {
		name := a.Name.Local
		foreign := a.Name.Space != "" && a.Name.Space != "xml"
		if isNamespace(a) || !foreign && (slices.Contains(known, name) || similar.Misspelt(name, known) != "") {
			return false
		}
		s.words = append(s.words, fmt.Sprintf("line %d: the attribute %s is not known: it is ignored", e.line, message.Element(e.at(name))))
		return true
	})
	names := slices.Concat(childNames(r), r.not, r.others)
	e.children = slices.DeleteFunc(e.children, func(c *element) bool {
		if slices.Contains(names, c.name) || suggest(e.name+"/", c.name, names) != "" {
			return false
		}
		s.words = append(s.words, fmt.Sprintf("line %d: the element %s is not known: it is ignored", c.line, message.Element(c.path)))
		return true
	})
	return len(s.words) > before
}
