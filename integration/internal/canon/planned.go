package canon

import (
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// Planned returns the form of a graph. length returns the length of the value of a secret, in bytes.
func Planned(g *blockgraph.Graph, length func(secrets.Reference) (int, error)) (Form, error) {
	p := parts{globals: g.Globals, controllers: map[string]string{}}
	for _, o := range g.Objects {
		v, err := decode(o.Options.String())
		if err != nil {
			return Form{}, err
		}
		if data, ok := o.Secret(); ok {
			n := len(string(data.Text))
			if n == 0 {
				if n, err = length(data.Ref); err != nil {
					return Form{}, fmt.Errorf("the secret %s: %w", o.ID, err)
				}
			}
			// PKCS #7 padding adds at least one byte.
			v = map[string]any{"qom-type": "secret", "id": o.ID, "blocks": n/blockSize + 1}
		}
		p.objects = append(p.objects, v)
	}
	for _, n := range g.Nodes {
		v, err := decode(n.Options.String())
		if err != nil {
			return Form{}, err
		}
		p.nodes = append(p.nodes, v)
	}
	for _, c := range g.Chardevs {
		v := map[string]any{"driver": "socket", "id": c.ID, "path": c.Path}
		if c.Reconnect != 0 {
			v["reconnect-ms"] = fmt.Sprint(c.Reconnect)
		}
		p.chardevs = append(p.chardevs, v)
	}
	for _, d := range g.Devices[:len(g.Devices)-1] {
		p.controllers[d.ID] = d.Options.Text("driver")
	}
	device, err := decode(g.Device().Options.String())
	if err != nil {
		return Form{}, err
	}
	p.device = device
	return p.form()
}
