package domainxml

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

func (d *Document) commandline() *Element {
	return d.root.child(xml.Name{Space: QEMU, Local: "commandline"})
}

// Arguments returns the values of <qemu:commandline>, in their order.
func (d *Document) Arguments() []string {
	c := d.commandline()
	if c == nil {
		return nil
	}
	var out []string
	for _, e := range c.Children {
		if e.Name == (xml.Name{Space: QEMU, Local: "arg"}) {
			out = append(out, e.attr("value"))
		}
	}
	return out
}

// WithArguments returns the document with these arguments instead of the present ones. An
// argument that stays keeps its text, and so do other elements of <qemu:commandline>. An
// empty <qemu:commandline> is removed.
func (d *Document) WithArguments(arguments []string) (*Document, error) {
	c := d.commandline()
	begin, prefix := "<qemu:commandline xmlns:qemu='"+QEMU+"'>", "qemu:"
	var others []string
	kept := map[string]string{}
	if c != nil {
		for _, e := range c.Children {
			text := string(d.text[e.start:e.end])
			if e.Name == (xml.Name{Space: QEMU, Local: "arg"}) {
				kept[e.attr("value")] = text
			} else {
				others = append(others, text)
			}
		}
		if c.close < c.end { // not <qemu:commandline/>
			begin = string(d.text[c.start:c.inner])
			name := strings.TrimSpace(string(d.text[c.close+len("</") : c.end-len(">")]))
			prefix = strings.TrimSuffix(name, "commandline")
		}
	}
	if len(arguments)+len(others) == 0 {
		return d.replace(c, "")
	}
	var b strings.Builder
	b.WriteString(begin + "\n")
	for _, a := range arguments {
		text, known := kept[a]
		if !known {
			text = "<" + prefix + "arg value='" + attribute(a) + "'/>"
		}
		b.WriteString("    " + text + "\n")
	}
	for _, text := range others {
		b.WriteString("    " + text + "\n")
	}
	b.WriteString("  </" + prefix + "commandline>")
	return d.replace(c, b.String())
}

// attribute escapes a value as libvirt does, so that a diff shows only real changes.
func attribute(value string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(value)) // a Builder returns no error
	return strings.NewReplacer("&#34;", "&quot;", "&#39;", "&apos;").Replace(b.String())
}

// replace replaces an element by text; nil adds the text at the end.
func (d *Document) replace(e *Element, text string) (*Document, error) {
	start, end := d.root.close, d.root.close
	switch {
	case e != nil:
		start, end = e.start, e.end
	case text == "":
	case d.root.close == d.root.end: // <domain/>
		start, end = d.root.end-len("/>"), d.root.end
		name, _, _ := strings.Cut(strings.TrimRight(string(d.text[d.root.start+1:start]), " \t\r\n"), " ")
		text = ">\n  " + text + "\n</" + strings.Fields(name)[0] + ">"
	default:
		text = "  " + text + "\n"
	}
	out := make([]byte, 0, len(d.text)+len(text))
	out = append(append(append(out, d.text[:start]...), text...), d.text[end:]...)
	doc, err := Parse(out)
	if err != nil {
		return nil, fmt.Errorf("the changed domain is no longer valid, which is a fault of luksplug: report it with the XML: %w", err)
	}
	return doc, nil
}

// pairs yields each argument with the next one.
func pairs(arguments []string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := 0; i+1 < len(arguments) && yield(arguments[i], arguments[i+1]); i++ {
		}
	}
}

// without returns the arguments without the options and values for which drop returns
// true.
func without(arguments []string, drop func(option, value string) bool) []string {
	var out []string
	for i := 0; i < len(arguments); i++ {
		if i+1 < len(arguments) && drop(arguments[i], arguments[i+1]) {
			i++
			continue
		}
		out = append(out, arguments[i])
	}
	return out
}

// Foreign returns the arguments that belong to none of luksplug's disks. A disk's
// arguments are options with a JSON value that has one of luksplug's names, as
// blockgraph writes them.
func Foreign(arguments []string) []string {
	return without(arguments, func(option, value string) bool { return target(option, value) != "" })
}

// Theirs returns the arguments without anything of luksplug's: disks, root ports and the
// monitor.
func Theirs(arguments []string) []string {
	return without(Foreign(arguments), func(option, value string) bool {
		pair := []string{option, value}
		monitor := option == "-mon" && strings.HasPrefix(value, "chardev="+monitorID+",")
		return monitor || MonitorSocket(pair) != "" || len(Ports(pair)) > 0
	})
}

// Targets returns the targets of luksplug's disks among the arguments, in the order in
// which they appear first.
func Targets(arguments []string) []string {
	var out []string
	for option, value := range pairs(arguments) {
		if t := target(option, value); t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// target returns the target of luksplug's disk that an option and its value belong to,
// "" if they belong to none.
func target(option, value string) string {
	var names struct {
		ID   string `json:"id"`
		Node string `json:"node-name"`
		// A device with an alias of the user's is recognised by the node that it reads.
		Drive   string `json:"drive"`
		Chardev string `json:"chardev"`
	}
	switch option {
	case "-object", "-blockdev", "-device":
		if json.Unmarshal([]byte(value), &names) != nil {
			return ""
		}
	case "-chardev":
		for part := range strings.SplitSeq(value, ",") {
			if id, ok := strings.CutPrefix(part, "id="); ok {
				names.ID = id
			}
		}
	}
	for _, name := range []string{names.ID, names.Node, names.Drive, names.Chardev} {
		if target, _, ok := blockgraph.ParseName(name); ok {
			return target
		}
	}
	return ""
}
