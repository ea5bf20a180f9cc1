package blockgraph

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"
)

// fullDisk has every element and nearly every attribute that is read.
const fullDisk = `<disk type='file' device='disk' snapshot='no'>
  <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap' detect_zeroes='on' error_policy='stop' rerror_policy='report'/>
  <source file='/a' index='1'>
    <encryption format='luks' engine='qemu'>
      <secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>
      <header type='file'>
        <format type='qcow2'/>
        <source file='/h' index='2'/>
      </header>
    </encryption>
  </source>
  <backingStore/>
  <target dev='sdb' bus='scsi'/>
  <readonly/>
  <serial>ABC</serial>
  <wwn>5000c50015ea71ad</wwn>
  <boot order='1'/>
  <alias name='ua-x'/>
  <address type='drive' controller='0' bus='0' target='0' unit='5'/>
</disk>`

// Nothing is ignored: whatever is put into whatever element of a valid disk is
// refused, at its own place.
func TestNothingIsIgnored(t *testing.T) {
	t.Parallel()
	if _, err := ParseDisk([]byte(fullDisk)); err != nil {
		t.Fatal(err)
	}
	tree, _, err := readTree([]byte(fullDisk))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	walk(tree, func(e *element) {
		count++
		for _, c := range []struct{ what, element, text string }{
			{"element", e.path + "/frobnicate", insert(e.line, e.name, "", "<frobnicate/>")},
			{"attribute", e.path + "@frobnicate", insert(e.line, e.name, " frobnicate='1'", "")},
			{"namespaced element", e.path + "/frobnicate", insert(e.line, e.name, "", "<x:frobnicate xmlns:x='urn:x'/>")},
			{"namespaced attribute", e.path + "@frobnicate", insert(e.line, e.name, " xmlns:x='urn:x' x:frobnicate='1'", "")},
			{"text", e.path, insert(e.line, e.name, "", "{frobnicate}")},
		} {
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
	})
	if count != 16 {
		t.Errorf("%d elements were tried: is fullDisk still complete?", count)
	}
}

func walk(e *element, visit func(*element)) {
	visit(e)
	for _, c := range e.children {
		walk(c, visit)
	}
}

// insert puts attributes and content into the element that begins on a line of
// fullDisk; every element is alone on its line.
func insert(line int, name, attrs, content string) string {
	lines := strings.Split(fullDisk, "\n")
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

// The full disk really exercises the whole grammar.
func TestFullDiskHasEveryElement(t *testing.T) {
	t.Parallel()
	tree, _, err := readTree([]byte(fullDisk))
	if err != nil {
		t.Fatal(err)
	}
	var check func(r *rule, e *element)
	check = func(r *rule, e *element) {
		for name, next := range r.children {
			c := e.child(name)
			if c == nil && name == "encryption" && e.path == "disk" {
				continue // it stands under <source>
			}
			if c == nil {
				t.Errorf("<%s> has no <%s>", e.path, name)
				continue
			}
			check(next, c)
		}
	}
	check(diskRule, tree)
}

// What libvirtxml knows is what libvirt knows: each of its elements and
// attributes is read, inert or listed as unsupported here, so that valid
// libvirt XML is never called a mistake.
func TestGrammarKnowsAllOfLibvirt(t *testing.T) {
	t.Parallel()
	seen := 0
	var compare func(r *rule, path string, typ reflect.Type)
	compare = func(r *rule, path string, typ reflect.Type) {
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

// word is an element or attribute that libvirtxml reads in some element.
type word struct {
	name string
	attr bool
	typ  reflect.Type
}

// hidden are the fields that libvirtxml fills in by code, which reflection does
// not see: the kinds of sources and addresses, and the type attributes.
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
			// A character device's source, of which disks have the unix socket.
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
