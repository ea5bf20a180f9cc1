package render

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/luksplug/luksplug/blockgraph"
)

// The measures of the SVG, in its user units.
const (
	svgCharWidth  = 7.3 // of the 12 px monospace font, generously
	svgLineHeight = 16
	svgPadding    = 10
	svgGapX       = 24
	svgGapY       = 44
	svgMargin     = 16
	svgMinWidth   = 90
)

// rect is a box with its position.
type rect struct {
	box
	x, y, w, h float64
}

// SVG returns the graph as a complete SVG 1.1 document.
func SVG(g *blockgraph.Graph) string { return svg(draw(g)) }

// CopySVG is [SVG] for a disk, from, that is copied to another volume, to; see [blockgraph.BuildCopy].
func CopySVG(from, to *blockgraph.Graph, phase CopyPhase) string {
	return svg(drawCopy(from, to, phase))
}

func svg(p picture) string {
	rects, width, height := layout(p)
	colours := map[boxKind]string{boxDevice: "#dbe9ff", boxNode: "#ffffff", boxSecret: "#ffe3e0", boxFile: "#eef3e6"}
	at := map[string]rect{}
	for _, r := range rects {
		at[r.id] = r
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" font-family=\"monospace\" font-size=\"12\">\n", width, height, width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n", svgText(p.title))
	b.WriteString("<defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#444\"/></marker></defs>\n")
	fmt.Fprintf(&b, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n", width, height)
	for _, e := range p.edges {
		b.WriteString(svgEdge(at[e.from], at[e.to], e.label))
	}
	for _, r := range rects {
		corner := 3
		if r.kind == boxFile {
			corner = 12
		}
		fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"%d\" fill=\"%s\" stroke=\"#444\"/>\n", r.x, r.y, r.w, r.h, corner, colours[r.kind])
		for i, line := range r.lines {
			weight := ""
			if i == 0 && r.kind != boxFile {
				weight = " font-weight=\"bold\""
			}
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\"%s>%s</text>\n",
				r.x+r.w/2, r.y+svgPadding+12+float64(i*svgLineHeight), weight, svgText(line))
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func svgEdge(from, to rect, label string) string {
	x1, y1, x2, y2 := from.x+from.w/2, from.y+from.h, to.x+to.w/2, to.y
	dx, dy := 4.0, 3.0
	if from.level == to.level { // side by side, such as a device and its controller
		x1, y1, x2, y2 = from.x+from.w, from.y+from.h/2, to.x, to.y+to.h/2
		dx, dy = -9, -5 // in the gap, above the line
	}
	s := fmt.Sprintf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#444\" marker-end=\"url(#arrow)\"/>\n", x1, y1, x2, y2)
	if label != "" {
		s += fmt.Sprintf("<text x=\"%.1f\" y=\"%.1f\" fill=\"#444\" font-size=\"10\">%s</text>\n", (x1+x2)/2+dx, (y1+y2)/2+dy, svgText(label))
	}
	return s
}

// layout puts the boxes into rows by their level, each row centred.
func layout(p picture) (rects []rect, width, height float64) {
	rows := map[int][]int{}
	last := 0
	for _, x := range p.boxes {
		w := float64(svgMinWidth)
		for _, l := range x.lines {
			w = max(w, float64(utf8.RuneCountInString(l))*svgCharWidth+2*svgPadding)
		}
		rows[x.level] = append(rows[x.level], len(rects))
		last = max(last, x.level)
		rects = append(rects, rect{box: x, w: w, h: float64(len(x.lines)*svgLineHeight + 2*svgPadding)})
	}
	rowWidth := func(row []int) float64 {
		w := float64(len(row)-1) * svgGapX
		for _, i := range row {
			w += rects[i].w
		}
		return w
	}
	for _, row := range rows {
		width = max(width, rowWidth(row))
	}
	y := float64(svgMargin)
	for level := 0; level <= last; level++ {
		x := svgMargin + (width-rowWidth(rows[level]))/2
		tallest := 0.0
		for _, i := range rows[level] {
			rects[i].x, rects[i].y = x, y
			x += rects[i].w + svgGapX
			tallest = max(tallest, rects[i].h)
		}
		y += tallest + svgGapY
	}
	return rects, width + 2*svgMargin, y - svgGapY + svgMargin
}

func svgText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}
