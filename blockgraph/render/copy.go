package render

import "github.com/luksplug/luksplug/blockgraph"

// CopyPhase is what is drawn of a copy.
type CopyPhase string

// The phases.
const (
	CopyRunning  CopyPhase = "running"  // QEMU copies, and the guest writes to the old volume
	CopyInStep   CopyPhase = "in step"  // the guest's writes go to both volumes
	CopySwitched CopyPhase = "switched" // the device uses the new volume
)

// drawCopy draws a disk that is copied: the filter of the job is between the device and its node, until the new volume takes its
// place.
func drawCopy(from, to *blockgraph.Graph, phase CopyPhase) picture {
	old, fresh := draw(from), draw(to)
	device := from.Device().ID
	if phase == CopySwitched {
		p := picture{title: old.title}
		for _, b := range old.boxes {
			if b.kind == boxDevice {
				p.boxes = append(p.boxes, b)
			}
		}
		fresh = fresh.without(blockgraph.Name(blockgraph.TargetOf(to.Target), blockgraph.RoleGuard))
		p.boxes, p.edges = append(p.boxes, fresh.boxes...), append(p.edges, fresh.edges...)
		p.edges = append(p.edges, edge{device, to.Top().Name, "drive"})
		p.printable()
		return p
	}
	job := blockgraph.Name(from.Target, blockgraph.RoleCopy)
	p := picture{title: old.title, boxes: []box{{job, boxNode, []string{job, "filter of the job (mirror)"}, 1}}}
	for _, b := range append(old.boxes, fresh.boxes...) {
		if b.kind != boxDevice {
			b.level++
		}
		p.boxes = append(p.boxes, b)
	}
	for _, e := range old.edges {
		if e.from == device && e.to == from.Top().Name {
			e.to = job
		}
		p.edges = append(p.edges, e)
	}
	copies := "copies"
	if phase == CopyInStep {
		copies = "the guest's writes"
	}
	p.edges = append(p.edges, edge{job, from.Top().Name, "file"}, edge{job, to.Top().Name, copies})
	p.edges = append(p.edges, fresh.edges...)
	p.printable()
	return p
}

// without returns the picture without a node and the file below it.
func (p picture) without(node string) picture {
	gone := map[string]bool{node: true}
	for _, e := range p.edges {
		if e.from == node {
			gone[e.to] = true
		}
	}
	out := picture{title: p.title}
	for _, b := range p.boxes {
		if !gone[b.id] {
			out.boxes = append(out.boxes, b)
		}
	}
	for _, e := range p.edges {
		if !gone[e.from] && !gone[e.to] {
			out.edges = append(out.edges, e)
		}
	}
	return out
}
