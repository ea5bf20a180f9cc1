package diskxml

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"
)

// fullDisks returns disks that have every element and nearly every attribute that is read,
// each element on a line of its own.
func fullDisks(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/full/*.xml")
	if err != nil || len(files) != 11 {
		t.Fatalf("%d full disks: %v", len(files), err)
	}
	var out []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	return out
}

// TestNothingIsIgnored: anything unknown in any element of a valid disk is refused, with
// its position.
func TestNothingIsIgnored(t *testing.T) {
	t.Parallel()
	count := 0
	for _, doc := range fullDisks(t) {
		if _, err := ParseDisk([]byte(doc)); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		tree, _, err := readTree([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		walk(tree, func(e *element) {
			count++
			nothingIgnored(t, doc, e)
		})
	}
	if count < 90 {
		t.Errorf("%d elements were tried: are fullDisks still complete?", count)
	}
}

func nothingIgnored(t *testing.T, doc string, e *element) {
	for _, c := range []struct{ what, element, text string }{
		{"element", e.path + "/frobnicate", insert(doc, e.line, e.name, "", "<frobnicate/>")},
		{"attribute", e.path + "@frobnicate", insert(doc, e.line, e.name, " frobnicate='1'", "")},
		{"namespaced element", e.path + "/frobnicate", insert(doc, e.line, e.name, "", "<x:frobnicate xmlns:x='urn:x'/>")},
		{"namespaced attribute", e.path + "@frobnicate", insert(doc, e.line, e.name, " xmlns:x='urn:x' x:frobnicate='1'", "")},
		{"text", e.path, insert(doc, e.line, e.name, "", "{frobnicate}")},
	} {
		if c.what == "text" && slices.Contains([]string{"label", "cookie", "group_name", "vendor", "product", "capacity", "filesystemOverhead", "expandDisksEnabled"}, e.name) {
			continue // any text is allowed there
		}
		_, err := ParseDisk([]byte(c.text))
		var invalid *XMLError
		if !errors.As(err, &invalid) {
			t.Errorf("%s in %s: got %v\n%s", c.what, e.path, err, c.text)
			continue
		}
		if invalid.Element != c.element || invalid.Line != e.line {
			t.Errorf("%s in %s, line %d: got %v", c.what, e.path, e.line, err)
		}
	}
}

func walk(e *element, visit func(*element)) {
	visit(e)
	for _, c := range e.children {
		walk(c, visit)
	}
}

// insert puts attributes and content into the element that begins on a line of
// a document where every element is alone on its line.
func insert(doc string, line int, name, attrs, content string) string {
	lines := strings.Split(doc, "\n")
	text := lines[line-1]
	start := strings.Index(text, "<"+name)
	end := strings.Index(text, ">")
	closed := text[end-1] == '/'
	if closed {
		end--
	}
	rest := text[end:]
	if content != "" && closed {
		rest = ">" + content + "</" + name + ">"
	} else if content != "" {
		rest = ">" + content + text[end+1:]
	}
	lines[line-1] = text[:start] + text[start:end] + attrs + rest
	return strings.Join(lines, "\n")
}

// TestFullDisksHaveEveryElement: the full disks use the whole grammar. A source that is
// not the disk's own has the same grammar.
func TestFullDisksHaveEveryElement(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, doc := range fullDisks(t) {
		tree, _, err := readTree([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		walk(tree, func(e *element) { found[e.path] = true })
	}
	var check func(r *rule, path string)
	check = func(r *rule, path string) {
		if strings.HasSuffix(path, "/encryption") && path != "disk/source/encryption" || strings.Count(path, "/") > 4 {
			return
		}
		if !found[path] {
			t.Errorf("<%s> is in none of the documents", path)
			return
		}
		if r.kinds != nil {
			for _, name := range slices.Sorted(maps.Keys(r.kinds)) {
				if path == "disk/source" {
					check(r.kinds[name], path)
				}
			}
			return
		}
		for name, next := range r.children {
			if path == "disk/source/encryption" && (name == "cipher" || name == "ivgen") {
				continue // refused, with the reason
			}
			if strings.Contains(path, "backingStore") && name == "backingStore" || strings.HasPrefix(path, "disk/mirror/") ||
				name == "metadata_cache" && path == "disk/backingStore/format" || name == "metadata_cache" && strings.Contains(path, "dataStore") ||
				path == "disk/mirror" && name == "backingStore" || path == "disk/iotune" {
				continue // the same as in other elements
			}
			check(next, path+"/"+name)
		}
	}
	check(diskRule, "disk")
}

// TestGrammarKnowsAllOfLibvirt: each element and attribute of libvirtxml is read, inert or
// listed as unsupported, so that valid libvirt XML is never reported as a mistake.
func TestGrammarKnowsAllOfLibvirt(t *testing.T) {
	t.Parallel()
	seen := 0
	var compare func(r *rule, path string, typ reflect.Type)
	compare = func(r *rule, path string, typ reflect.Type) {
		if strings.HasSuffix(path, "/reservations/source") {
			return // of a character device, which is a unix socket here
		}
		if strings.Count(path, "/") > 4 {
			return // a layer in a layer in a layer
		}
		r = r.union()
		for _, w := range wordsOf(typ, path) {
			seen++
			switch {
			case w.attr && slices.Contains(slices.Concat(r.attrs, r.inert, r.notAttrs), w.name):
			case w.attr:
				t.Errorf("%s@%s is libvirt's and not in the grammar", path, w.name)
			case slices.Contains(r.not, w.name):
			case r.children[w.name] != nil:
				compare(r.children[w.name], path+"/"+w.name, w.typ)
			default:
				t.Errorf("%s/%s is libvirt's and not in the grammar", path, w.name)
			}
		}
	}
	compare(diskRule, "disk", reflect.TypeFor[libvirtxml.DomainDisk]())
	header := diskRule.children["encryption"].children["header"]
	compare(header, "disk/encryption/header", reflect.TypeFor[libvirtxml.DomainDiskBackingStore]())
	if seen < 150 {
		t.Errorf("only %d words of libvirtxml were found: has its layout changed?", seen)
	}
}

// union returns the rule with everything that any kind of source may have.
func (r *rule) union() *rule {
	if r.kinds == nil {
		return r
	}
	out := &rule{children: map[string]*rule{}}
	for _, kind := range r.kinds {
		out.attrs = slices.Concat(out.attrs, kind.attrs, kind.inert, kind.notAttrs)
		out.not = append(out.not, kind.not...)
		for name, child := range kind.children {
			if old := out.children[name]; old != nil {
				child = &rule{attrs: slices.Concat(old.attrs, child.attrs), inert: slices.Concat(old.inert, child.inert),
					not: slices.Concat(old.not, child.not), kinds: child.kinds, children: child.children}
			}
			out.children[name] = child
		}
	}
	return out
}

// word is an element or attribute that libvirtxml reads in some element.
type word struct {
	name string
	attr bool
	typ  reflect.Type
}

// hidden are the fields that libvirtxml fills in by code, which reflection cannot find:
// the kinds of sources and addresses, and the type attributes.
var hidden = map[string][]string{
	"disk":                   {"type"},
	"disk/backingStore":      {"type"},
	"disk/encryption/header": {"type"},
	"address":                {"type"},
}

// wordsOf lists what libvirtxml reads into a struct.
func wordsOf(typ reflect.Type, path string) []word {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return nil
	}
	var out []word
	key := path
	if typ == reflect.TypeFor[libvirtxml.DomainAddress]() {
		key = "address"
	}
	for _, name := range hidden[key] {
		out = append(out, word{name: name, attr: true})
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag := f.Tag.Get("xml")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Name == "XMLName":
		case f.Type == reflect.TypeFor[*libvirtxml.DomainDiskSourceVHostUser]():
			// A character device's source: disks only have the unix socket.
			out = append(out, wordsOf(reflect.TypeFor[libvirtxml.DomainChardevSourceUNIX](), path)...)
		case tag == "-", tag == "":
			// A union: one of these is read, into the element itself.
			out = append(out, wordsOf(f.Type, path)...)
		case name == "": // text
		default:
			out = append(out, word{name, strings.HasPrefix(options, "attr"), f.Type})
		}
	}
	return out
}
