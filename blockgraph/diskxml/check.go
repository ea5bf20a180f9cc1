package diskxml

import (
	"cmp"
	"encoding/xml"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/internal/similar"
)

// check refuses everything in e that r does not allow. If skip is not nil, unknown elements
// and attributes are removed from the tree and recorded in skip instead.
func (r *rule) check(e *element, skip *skipped) error {
	if skip.cut(r, e) {
		return r.check(e, skip)
	}
	seen := make([]string, 0, len(e.attrs))
	for _, a := range e.attrs {
		name := a.Name.Local
		switch {
		case isNamespace(a):
			continue
		case a.Name.Space != "" && a.Name.Space != "xml":
			return e.foreign(name, "attributes", a.Name.Space)
		case slices.Contains(seen, name):
			return e.invalid(name, "the attribute is given twice")
		case slices.Contains(r.attrs, name), slices.Contains(r.inert, name):
			if err := r.checkValue(e, a); err != nil {
				return err
			}
		case slices.Contains(r.notAttrs, name):
			return e.unsupported(name, "%s", why(e.name+"@"+name))
		case slices.Contains(r.others, name):
			return e.invalid(name, "%s", misplaced(name))
		default:
			return e.invalid(name, "unknown attribute%s", suggest(e.name+"@", name, r.attrs))
		}
		seen = append(seen, name)
	}
	if !r.text && e.text != "" {
		return e.stray()
	}
	for i, c := range e.children {
		next, known := r.children[c.name]
		switch {
		case known:
		case slices.Contains(r.not, c.name):
			return c.unsupported("", "%s", why(c.name))
		case slices.Contains(r.others, c.name):
			return c.invalid("", "%s", misplaced(c.name))
		default:
			return c.invalid("", "unknown element%s", suggest(e.name+"/", c.name, childNames(r)))
		}
		if !next.repeated && slices.ContainsFunc(e.children[:i], func(o *element) bool { return o.name == c.name }) {
			return c.invalid("", "the element occurs more than once")
		}
		if next.kinds != nil {
			next = next.kind(e, c)
		}
		if err := next.check(c, skip); err != nil {
			return err
		}
	}
	return nil
}

// stray refuses the text of an element that may have none. It shows the text only where it cannot be a passphrase or key
// that the user has written into the XML.
func (e *element) stray() error {
	switch {
	case e.name == "secret":
		return e.invalid("", "contains text: it names a secret by uuid= or usage=, and never holds it, so keep the value in a key store and remove it here")
	case e.confidential():
		return e.invalid("", "contains text, which has no meaning here and is not shown, as it may be a secret: remove it")
	}
	return e.invalid("", "contains text %q, which has no meaning here", message.Shorten(e.text))
}

// foreign refuses an element or attribute of a namespace.
func (e *element) foreign(attr, what, space string) error {
	if e.confidential() {
		return e.invalid(attr, "%s of a namespace are not known", what)
	}
	return e.invalid(attr, "%s of the namespace %q are not known", what, message.Shorten(space))
}

// confidential reports whether the element is in one that has to do with secrets, or has their name misspelt.
func (e *element) confidential() bool {
	return slices.ContainsFunc(strings.Split(e.path, "/"), func(name string) bool {
		return similar.Misspelt(name, []string{"encryption", "secret", "auth", "cookies", "passphrase", "password", "key"}) != ""
	})
}

// checkValue refuses an empty value, which libvirtxml does not distinguish from a missing
// one, and a malformed number, for which it names no element.
func (r *rule) checkValue(e *element, a xml.Attr) error {
	name := a.Name.Local
	if a.Value == "" {
		return e.invalid(name, "is empty: give a value, or leave the attribute out")
	}
	if slices.Contains(r.numbers, name) {
		if _, err := strconv.ParseUint(a.Value, 10, 31); err != nil {
			return e.invalid(name, "%q is no number: use decimal digits", message.Shorten(a.Value))
		}
	}
	return nil
}

func isNamespace(a xml.Attr) bool {
	return a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns"
}

// kind returns the rule for a <source>. An unknown kind is refused later, by its name.
func (r *rule) kind(owner, e *element) *rule {
	kind := cmp.Or(owner.attr("type"), string(blockgraph.SourceFile))
	if kind == string(blockgraph.SourceNetwork) {
		kind = e.attr("protocol")
	}
	if known := r.kinds[kind]; known != nil {
		return known
	}
	return r.kinds[""]
}
