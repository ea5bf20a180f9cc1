package domainxml

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

func (d *Document) commandline() *element {
	return d.root.child(xml.Name{Space: QEMU, Local: "commandline"})
}

// Arguments returns the values of <qemu:commandline>, in their order.
func (d *Document) Arguments() []string {
	c := d.commandline()
	if c == nil {
		return nil
	}
	var out []string
	for _, e := range c.children {
		if e.name == (xml.Name{Space: QEMU, Local: "arg"}) {
			out = append(out, e.attr("value"))
		}
	}
	return out
}

// WithArguments returns the document with these arguments in place of those that
// it has. An argument that stays keeps its text, and so does whatever else is in
// <qemu:commandline>. Without an argument and anything else, the element goes.
func (d *Document) WithArguments(arguments []string) (*Document, error) {
	c := d.commandline()
	begin, prefix := "<qemu:commandline xmlns:qemu='"+QEMU+"'>", "qemu:"
	var others []string
	kept := map[string]string{}
	if c != nil {
		for _, e := range c.children {
			text := string(d.text[e.start:e.end])
			if e.name == (xml.Name{Space: QEMU, Local: "arg"}) {
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

// attribute writes a value the way libvirt does, so that a change of a definition
// shows as nothing else.
func attribute(value string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(value)) // a Builder takes everything
	return strings.NewReplacer("&#34;", "&quot;", "&#39;", "&apos;").Replace(b.String())
}

// replace puts text in the place of an element; nil is a new one, at the end.
func (d *Document) replace(e *element, text string) (*Document, error) {
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
		return nil, fmt.Errorf("the changed domain is no longer valid, which is an error of luksplug: %w", err)
	}
	return doc, nil
}

// Foreign returns the arguments that are not of a disk of ours. Only those that
// blockgraph writes are taken for ours: an option with a JSON value that has one
// of our names.
func Foreign(arguments []string) []string {
	var out []string
	for i := 0; i < len(arguments); i++ {
		if i+1 < len(arguments) {
			if target, _ := Target(arguments[i], arguments[i+1]); target != "" {
				i++
				continue
			}
		}
		out = append(out, arguments[i])
	}
	return out
}

// Targets returns the targets of our disks among the arguments, in the order in
// which they appear first.
func Targets(arguments []string) []string {
	var out []string
	seen := map[string]bool{}
	for i := 0; i+1 < len(arguments); i++ {
		if target, _ := Target(arguments[i], arguments[i+1]); target != "" && !seen[target] {
			seen[target] = true
			out = append(out, target)
		}
	}
	return out
}

// Target returns the target of the disk of ours that an option and its value
// belong to, and what the value names for it; "" for an argument of somebody
// else's.
func Target(option, value string) (target string, role blockgraph.Role) {
	var names struct {
		ID   string `json:"id"`
		Node string `json:"node-name"`
		// The node that a device reads tells whose device it is which has a
		// name of the user's.
		Drive   string `json:"drive"`
		Chardev string `json:"chardev"`
	}
	switch option {
	case "-object", "-blockdev", "-device":
		if json.Unmarshal([]byte(value), &names) != nil {
			return "", ""
		}
	case "-chardev":
		for _, part := range strings.Split(value, ",") {
			if id, ok := strings.CutPrefix(part, "id="); ok {
				names.ID = id
			}
		}
	default:
		return "", ""
	}
	for _, name := range []string{names.ID, names.Node, names.Drive, names.Chardev} {
		if target, role, ok := blockgraph.ParseName(name); ok {
			return target, role
		}
	}
	return "", ""
}
