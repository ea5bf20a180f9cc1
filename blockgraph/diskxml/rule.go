package diskxml

import (
	"slices"

	"github.com/luksplug/luksplug/internal/similar"
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

// suggest returns a hint with the known name that was probably meant by an attribute or element, or with what was probably
// meant; "" for none. where is "encryption@" or "encryption/", for an attribute or element of <encryption>.
func suggest(where, name string, known []string) string {
	if meant := similar.Misspelt(name, known); meant != "" {
		return ": did you mean " + meant + "?"
	}
	if hint := meant[where+name]; hint != "" {
		return ": " + hint
	}
	return ""
}

// meant has hints about names that are right elsewhere, or in other programs.
var meant = map[string]string{
	"encryption@type": "did you mean format?", "driver@format": "did you mean type?", "format@format": "did you mean type?", "format@name": "did you mean type?",
	"target@name": "did you mean dev?", "target@device": "did you mean dev?", "target@type": "did you mean bus?", "target@file": "the path is <source file=...>",
	"secret@id": "did you mean uuid?", "secret@name": "did you mean usage?", "auth@user": "did you mean username?", "auth@name": "did you mean username?",
	"host@address": "did you mean name?", "host@ip": "did you mean name?", "source@url": "the address is in <host> and name=", "source@uri": "the address is in <host> and name=",
	"disk@format": "the format is <driver type=...>", "source@format": "the format is <driver type=...>", "source@type": "the type is that of <disk>",
	"disk@bus": "the bus is <target bus=...>", "disk@dev": "the name is <target dev=...>", "disk@file": "the path is <source file=...>",
	"disk@readonly": "write <readonly/> into <disk>", "disk@serial": "write <serial> into <disk>", "driver@readonly": "write <readonly/> into <disk>",
	"header@format": "write <format type=...> into <header>", "header@file": "write <source file=...> into <header>", "encryption@header": "write <header> into <encryption>",
	"disk/header": "it belongs into <encryption>", "source/header": "it belongs into <encryption>",
	"disk/secret": "it belongs into <encryption>, or into <auth>", "source/secret": "it belongs into <encryption>, or into <auth>",
	"disk/format": "the format is <driver type=...>", "source/format": "the format is <driver type=...>", "driver/format": "the format is <driver type=...>",
	"disk/host": "it belongs into <source>", "source/target": "it belongs into <disk>", "source/driver": "it belongs into <disk>",
	"encryption/source": "it belongs into <header>", "encryption/format": "it belongs into <header>; the encryption has format='luks'",
	"encryption/passphrase": "did you mean secret?", "encryption/password": "did you mean secret?", "encryption/key": "did you mean secret?",
	"disk/luks": "did you mean encryption?", "disk/bus": "the bus is <target bus=...>", "disk/cache": "the cache is <driver cache=...>",
}

// kindOf has the type of a <source> to which an attribute belongs.
var kindOf = map[string]string{"file": "file", "dev": "block", "dir": "dir", "protocol": "network", "name": "network", "pool": "volume", "volume": "volume"}

// misplaced returns why an attribute or element of another kind of source is refused.
func misplaced(name string) string {
	const reason = "does not belong to this kind of source, and libvirt would ignore it"
	if kind := kindOf[name]; kind != "" {
		return reason + ": it is of type='" + kind + "'"
	}
	return reason
}
