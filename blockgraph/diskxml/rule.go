package diskxml

import (
	"slices"
	"strings"
)

// rule is the grammar of one element of a disk. A name in none of its lists is unknown to
// libvirt and an [*XMLError]; a name that libvirt knows and this package does not support
// is a [*blockgraph.UnsupportedError]. Nothing is ignored.
type rule struct {
	attrs    []string         // read
	inert    []string         // read by libvirt, and without effect on a disk that is being attached
	numbers  []string         // of attrs and inert, those with a decimal number
	notAttrs []string         // libvirt's, not supported here
	children map[string]*rule // read
	not      []string         // libvirt's child elements, not supported here
	others   []string         // attributes and elements that libvirt reads here for another kind of source
	text     bool             // the element contains text
	repeated bool             // may occur more than once in its parent
	kinds    map[string]*rule // in place of all of the above, for a source: the rules by its kind or protocol
}

func childNames(r *rule) []string {
	names := make([]string, 0, len(r.children))
	for n := range r.children {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// with adds a child element.
func (r *rule) with(name string, child *rule) *rule {
	if r.children == nil {
		r.children = map[string]*rule{}
	}
	r.children[name] = child
	return r
}

func (r *rule) without(element string) *rule {
	r.not = append(r.not, element)
	return r
}

// suggest returns a hint with the known word that was probably meant, which differs in case
// or by one letter; "" for none.
func suggest(word string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(word, k) || oneEdit(word, k) {
			return ": did you mean " + k + "?"
		}
	}
	return ""
}

// oneEdit reports whether a becomes b by adding, removing or replacing one letter, or by
// swapping two adjacent ones.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch {
	case len(a) < len(b):
		return a[i:] == b[i+1:]
	case i == len(a):
		return false
	case a[i+1:] == b[i+1:]:
		return true
	}
	return i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
}
