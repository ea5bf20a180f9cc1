package render

import (
	"bytes"
	"encoding/json"

	"github.com/luksplug/luksplug/blockgraph"
)

// JSON returns the plan as one indented JSON document:
//
//	{"objects":[...],"blockdevs":[...],"device":{...},"chardevs":[...]}
//
// Each element is the JSON for QEMU, in order; secret values are "[redacted]". A chardev is
// flat, as for -chardev, and not nested, as for chardev-add. Further members, where the disk
// needs them: "daemon", with the objects and blockdevs of a storage daemon that opens the disk;
// "overlay", with the file of a transient disk; "fdsets", for descriptors that are passed;
// "controllers", before "device"; and "throttling", with the arguments of
// block_set_io_throttle. Later versions only add members to this document.
func JSON(p *blockgraph.Plan) ([]byte, error) {
	objects, nodes := blockJSON(p.Graph)
	fdsets, controllers := []any{}, []any{}
	for _, s := range p.Steps {
		if s.Kind == blockgraph.StepFDSet {
			fdsets = append(fdsets, s.Do.Arguments)
		}
	}
	overlay := p.Graph.Overlay
	for _, d := range p.Graph.Devices[:len(p.Graph.Devices)-1] {
		controllers = append(controllers, d.Options)
	}
	var doc blockgraph.Object
	if daemon := p.Graph.Daemon; daemon != nil {
		objects, nodes := blockJSON(daemon)
		doc = doc.With("daemon", blockgraph.Object(nil).With("objects", objects).With("blockdevs", nodes))
		overlay = daemon.Overlay
	}
	if overlay != nil {
		doc = doc.With("overlay", blockgraph.Object(nil).With("filename", overlay.Path).With("base", overlay.Base).With("encrypted", overlay.Secret != ""))
	}
	if len(fdsets) > 0 {
		doc = doc.With("fdsets", fdsets)
	}
	doc = doc.With("objects", objects).With("blockdevs", nodes)
	if len(controllers) > 0 {
		doc = doc.With("controllers", controllers)
	}
	doc = doc.With("device", p.Graph.Device().Options)
	chardevs := []any{}
	for _, c := range p.Graph.Chardevs {
		chardevs = append(chardevs, chardevOptions(c))
	}
	doc = doc.With("chardevs", chardevs)
	if t := p.Graph.Throttling; t != nil {
		doc = doc.With("throttling", t)
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

func blockJSON(g *blockgraph.Graph) (objects, nodes []any) {
	objects, nodes = []any{}, []any{}
	for _, o := range g.Objects {
		objects = append(objects, o.Options)
	}
	for _, n := range g.Nodes {
		nodes = append(nodes, n.Options)
	}
	return objects, nodes
}
