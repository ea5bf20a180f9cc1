package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/internal/printable"
)

// picture is the graph as boxes and arrows: what DOT, Mermaid and SVG draw.
type picture struct {
	title string
	boxes []box
	edges []edge
}

type box struct {
	id    string
	kind  boxKind
	lines []string // the first is the name
	level int      // 0 is the top row
}

type boxKind string

const (
	boxDevice boxKind = "device"
	boxNode   boxKind = "node"
	boxSecret boxKind = "secret"
	boxFile   boxKind = "file"
)

type edge struct{ from, to, label string }

// draw lays the graph out: devices on top, each node one row below the node that
// uses it, host files and secrets next to the nodes that use them.
func draw(g *blockgraph.Graph) picture {
	p := picture{title: "luksplug " + g.Target}
	level := map[string]int{}
	if top := g.Top().Name; top != "" {
		level[top] = 1
	}
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		for _, c := range g.Nodes[i].Children {
			level[c.Name] = max(level[c.Name], level[g.Nodes[i].Name]+1)
		}
	}
	p.devices(g)
	p.nodes(g, level)
	p.printable()
	return p
}

// devices draws the devices and what they use in place of nodes. The graph of a copy has none.
func (p *picture) devices(g *blockgraph.Graph) {
	if len(g.Devices) == 0 {
		return
	}
	own := g.Device()
	p.boxes = append(p.boxes, box{own.ID, boxDevice, []string{own.ID, own.Options.Text("driver")}, 0})
	if drive := own.Options.Text("drive"); drive != "" {
		p.edges = append(p.edges, edge{own.ID, drive, "drive"})
	}
	for _, c := range g.Chardevs {
		file := c.ID + "-file"
		p.boxes = append(p.boxes, box{c.ID, boxNode, []string{c.ID, "socket"}, 1}, box{file, boxFile, []string{c.Path}, 2})
		p.edges = append(p.edges, edge{own.ID, c.ID, "chardev"}, edge{c.ID, file, ""})
	}
	for _, d := range g.Devices[:len(g.Devices)-1] {
		p.boxes = append(p.boxes, box{d.ID, boxDevice, []string{d.ID, d.Options.Text("driver")}, 0})
		p.edges = append(p.edges, edge{own.ID, d.ID, "bus"})
	}
}

// nodes draws the nodes at their levels.
func (p *picture) nodes(g *blockgraph.Graph, level map[string]int) {
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := g.Nodes[i]
		p.boxes = append(p.boxes, box{n.Name, boxNode, []string{n.Name, n.Options.Text("driver")}, level[n.Name]})
		for _, c := range n.Children {
			p.edges = append(p.edges, edge{n.Name, c.Name, c.Member})
		}
		for _, id := range slices.Concat(n.Objects, n.Secrets) {
			p.object(g, n.Name, id, level[n.Name]+1)
		}
		if lines := bytesOf(g, n); lines != nil {
			id := n.Name + "-file"
			p.boxes = append(p.boxes, box{id, boxFile, lines, level[n.Name] + 1})
			p.edges = append(p.edges, edge{n.Name, id, ""})
		}
	}
}

// printable escapes control characters in everything that is drawn: most of it is from the disk's XML, and a
// picture may be shown on a terminal or a page.
func (p *picture) printable() {
	p.title = printable.Line(p.title)
	for i := range p.boxes {
		x := &p.boxes[i]
		x.id = printable.Line(x.id)
		for n, line := range x.lines {
			x.lines[n] = printable.Line(line)
		}
	}
	for i := range p.edges {
		e := &p.edges[i]
		e.from, e.to, e.label = printable.Line(e.from), printable.Line(e.to), printable.Line(e.label)
	}
}

// object draws an object and the objects that it reads itself.
func (p *picture) object(g *blockgraph.Graph, user, id string, level int) {
	o := g.ObjectByID(id)
	kind, about, label := boxSecret, "", "key-secret"
	if data, ok := o.Secret(); ok {
		about = value(data)
	} else {
		kind, about, label = boxNode, o.Options.Text("qom-type"), "object"
	}
	p.boxes = append(p.boxes, box{id, kind, []string{id, about}, level})
	p.edges = append(p.edges, edge{user, id, label})
	for _, s := range o.Secrets {
		p.object(g, id, s, level+1)
	}
}

// value names a secret.
func value(d blockgraph.SecretData) string {
	switch {
	case d.OneTime:
		return "one-time passphrase"
	case d.Text != "":
		return "cookies of the XML"
	}
	return d.Ref.String()
}

// bytesOf describes the source of a protocol node, nil for other nodes.
func bytesOf(g *blockgraph.Graph, n blockgraph.Node) []string {
	switch h := g.HeaderOf(n.Name); {
	case h != nil:
		return []string{"ephemeral header", "made from " + h.Original.Source.String()}
	case g.OverlayOf(n.Name) != nil:
		return []string{"overlay, without a name once it is open", n.From}
	case n.From == "":
		return nil
	case g.Daemon != nil:
		return []string{"storage daemon", n.From}
	}
	return []string{n.From}
}

// DOT returns the graph in Graphviz's language.
func DOT(g *blockgraph.Graph) string {
	shapes := map[boxKind]string{boxDevice: "component", boxNode: "box", boxSecret: "octagon", boxFile: "cylinder"}
	p := draw(g)
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n  rankdir=TB;\n  node [fontname=\"sans-serif\"];\n", dotString(p.title))
	for _, x := range p.boxes {
		fmt.Fprintf(&b, "  %s [shape=%s, label=%s];\n", dotString(x.id), shapes[x.kind], dotString(strings.Join(x.lines, "\n")))
	}
	for _, e := range p.edges {
		fmt.Fprintf(&b, "  %s -> %s", dotString(e.from), dotString(e.to))
		if e.label != "" {
			fmt.Fprintf(&b, " [label=%s]", dotString(e.label))
		}
		b.WriteString(";\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// dotString quotes s for DOT, where only the quotation mark is special in a
// quoted string and a backslash begins an escape of labels.
func dotString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// Mermaid returns the graph in Mermaid's flowchart language.
func Mermaid(g *blockgraph.Graph) string {
	open := map[boxKind][2]string{boxDevice: {"[[", "]]"}, boxNode: {"[", "]"}, boxSecret: {"{{", "}}"}, boxFile: {"[(", ")]"}}
	p := draw(g)
	ids := map[string]string{}
	var b strings.Builder
	b.WriteString("flowchart TB\n")
	for i, x := range p.boxes {
		ids[x.id] = fmt.Sprintf("n%d", i)
		fmt.Fprintf(&b, "  n%d%s\"%s\"%s\n", i, open[x.kind][0], mermaidText(strings.Join(x.lines, "\n")), open[x.kind][1])
	}
	for _, e := range p.edges {
		label := ""
		if e.label != "" {
			label = "|" + e.label + "|"
		}
		fmt.Fprintf(&b, "  %s -->%s %s\n", ids[e.from], label, ids[e.to])
	}
	return b.String()
}

func mermaidText(s string) string {
	return strings.NewReplacer("&", "&amp;", `"`, "&quot;", "<", "&lt;", ">", "&gt;", "#", "&#35;", "\n", "<br/>").Replace(s)
}
