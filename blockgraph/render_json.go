package blockgraph

import (
	"bytes"
	"encoding/json"
)

// JSON prints the plan as one indented JSON document:
//
//	{"objects":[...],"blockdevs":[...],"device":{...},"chardevs":[...]}
//
// Each element is the JSON that goes to QEMU, in order; secret values are
// "[redacted]". A chardev is what -chardev takes, by name and text: chardev-add
// has it nested. A member "controllers" precedes "device" where the disk brings
// a controller along; "fdsets" comes first where descriptors are passed, and
// "daemon", with objects and blockdevs of its own, where a storage daemon opens
// the disk; "overlay" where the disk is transient, with the file that is made for it;
// "throttling" comes last, with what block_set_io_throttle is told, where
// the disk has limits. Members are only ever added to this document.
func (p *Plan) JSON() ([]byte, error) {
	objects, nodes := p.Graph.blockJSON()
	fdsets, controllers := []any{}, []any{}
	for _, s := range p.Steps {
		if s.Kind == StepFDSet {
			fdsets = append(fdsets, s.Do.Arguments)
		}
	}
	overlay := p.Graph.Overlay
	for _, d := range p.Graph.Devices[:len(p.Graph.Devices)-1] {
		controllers = append(controllers, d.Options)
	}
	var doc Object
	if daemon := p.Graph.Daemon; daemon != nil {
		objects, nodes := daemon.blockJSON()
		doc.Add("daemon", Object{{"objects", objects}, {"blockdevs", nodes}})
		overlay = daemon.Overlay
	}
	if overlay != nil {
		doc.Add("overlay", Object{{"filename", overlay.Path}, {"base", overlay.Base}, {"encrypted", overlay.Secret != ""}})
	}
	if len(fdsets) > 0 {
		doc.Add("fdsets", fdsets)
	}
	doc = append(doc, Member{"objects", objects}, Member{"blockdevs", nodes})
	if len(controllers) > 0 {
		doc.Add("controllers", controllers)
	}
	doc.Add("device", p.Graph.Device().Options)
	chardevs := []any{}
	for _, c := range p.Graph.Chardevs {
		chardevs = append(chardevs, c.argument())
	}
	doc.Add("chardevs", chardevs)
	if t := p.Graph.Throttling; t != nil {
		doc.Add("throttling", t)
	}
	compact, err := doc.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func (g *Graph) blockJSON() (objects, nodes []any) {
	objects, nodes = []any{}, []any{}
	for _, o := range g.Objects {
		objects = append(objects, o.Options)
	}
	for _, n := range g.Nodes {
		nodes = append(nodes, n.Options)
	}
	return objects, nodes
}
