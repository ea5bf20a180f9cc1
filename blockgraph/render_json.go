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
// "[redacted]". A member "controllers" precedes "device" where the disk brings
// a controller along. Members are only ever added to this document.
func (p *Plan) JSON() ([]byte, error) {
	objects, nodes, controllers := []any{}, []any{}, []any{}
	for _, o := range p.Graph.Objects {
		objects = append(objects, o.Options)
	}
	for _, n := range p.Graph.Nodes {
		nodes = append(nodes, n.Options)
	}
	for _, d := range p.Graph.Devices[:len(p.Graph.Devices)-1] {
		controllers = append(controllers, d.Options)
	}
	doc := Object{{"objects", objects}, {"blockdevs", nodes}}
	if len(controllers) > 0 {
		doc.add("controllers", controllers)
	}
	doc.add("device", p.Graph.Device().Options)
	doc.add("chardevs", []any{})
	compact, err := appendJSON(nil, doc)
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
