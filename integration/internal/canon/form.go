package canon

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Form is a disk in QEMU's terms.
type Form struct {
	Objects  []map[string]any // in order, but for throttle groups, which come last
	Nodes    []map[string]any // in order
	Device   map[string]any
	Chardevs []map[string]any
	// Controller is the driver of the SCSI controller that has the disk, "" if it is unknown.
	Controller string
}

// parts are the objects, nodes and so on of a form, with their original names.
type parts struct {
	objects, nodes, chardevs []map[string]any
	device                   map[string]any
	globals                  []string
	controllers              map[string]string // drivers, by id
}

// children are the members of a node that name another node; references are those that name an object.
var (
	children   = []string{"file", "data-file", "header", "backing"}
	references = []string{"key-secret", "password-secret", "cookie-secret", "pr-manager", "tls-creds", "passwordid"}
)

// form makes the form of the parts.
func (p parts) form() (Form, error) {
	w := walker{nodes: byName(p.nodes, "node-name"), objects: byName(p.objects, "id"), names: map[string]string{}, uses: map[string]string{}}
	if top, ok := p.device["drive"].(string); ok {
		if err := w.node(top, "drive"); err != nil {
			return Form{}, err
		}
	}
	out := Form{Device: p.canonicalDevice()}
	for _, n := range p.nodes {
		if name, ok := w.names[n["node-name"].(string)]; ok {
			n["node-name"] = name
			out.Nodes = append(out.Nodes, n)
		}
	}
	var groups []map[string]any
	for _, o := range p.objects {
		use, ok := w.uses[o["id"].(string)]
		if !ok {
			continue
		}
		if o["qom-type"] == "throttle-group" {
			groups = append(groups, o)
			continue
		}
		o["id"] = use
		out.Objects = append(out.Objects, o)
	}
	slices.SortFunc(groups, func(a, b map[string]any) int { return strings.Compare(a["id"].(string), b["id"].(string)) })
	out.Objects = append(out.Objects, groups...)
	for _, c := range p.chardevs {
		if c["id"] == p.device["chardev"] {
			c["id"] = "chardev"
			out.Chardevs = append(out.Chardevs, c)
		}
	}
	if _, ok := out.Device["chardev"]; ok {
		out.Device["chardev"] = "chardev"
	}
	if bus, ok := p.device["bus"].(string); ok {
		out.Controller = p.controllers[bus[:max(strings.LastIndex(bus, "."), 0)]]
	}
	return out, nil
}

// canonicalDevice renames the device. A floppy drive's boot index is that of its controller.
func (p parts) canonicalDevice() map[string]any {
	d := maps.Clone(p.device)
	id := fmt.Sprint(d["id"])
	if !strings.HasPrefix(id, "ua-") {
		d["id"] = "device"
		if d["device_id"] == "drive-"+id {
			d["device_id"] = "drive-device"
		}
	}
	if _, ok := d["drive"]; ok {
		d["drive"] = "drive"
	}
	if d["driver"] == "floppy" {
		drive := "A"
		if fmt.Sprint(d["unit"]) != "0" {
			drive = "B"
		}
		for _, g := range p.globals {
			if n, ok := strings.CutPrefix(g, "isa-fdc.bootindex"+drive+"="); ok {
				d["bootindex"] = json.Number(n)
			}
		}
	}
	return d
}

func byName(list []map[string]any, member string) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, e := range list {
		if name, ok := e[member].(string); ok {
			out[name] = e
		}
	}
	return out
}

// walker renames the nodes and objects that the device needs, from the top down.
type walker struct {
	nodes, objects map[string]map[string]any
	names, uses    map[string]string // the new names
}

func (w walker) node(name, path string) error {
	n := w.nodes[name]
	if n == nil {
		return fmt.Errorf("%s is the node %q, which does not exist", path, name)
	}
	if old, ok := w.names[name]; ok {
		return fmt.Errorf("the node %q is both %s and %s", name, old, path)
	}
	w.names[name] = path
	for _, member := range children {
		if child, ok := n[member].(string); ok {
			if err := w.node(child, path+"."+member); err != nil {
				return err
			}
			n[member] = path + "." + member
		}
	}
	if group, ok := n["throttle-group"].(string); ok {
		w.uses[group] = group
	}
	return w.objectsOf(n, path+":")
}

// objectsOf renames the objects to which a node, an object or a part of one refers.
func (w walker) objectsOf(e map[string]any, prefix string) error {
	for _, member := range slices.Sorted(maps.Keys(e)) {
		if inner, ok := e[member].(map[string]any); ok {
			if err := w.objectsOf(inner, prefix+member+"."); err != nil {
				return err
			}
		}
		id, ok := e[member].(string)
		if !ok || !slices.Contains(references, member) {
			continue
		}
		o := w.objects[id]
		if o == nil {
			return fmt.Errorf("%s%s is the object %q, which does not exist", prefix, member, id)
		}
		if _, named := w.uses[id]; !named {
			w.uses[id] = prefix + member
		}
		e[member] = w.uses[id]
		if o["qom-type"] == "pr-manager-helper" {
			if p, ok := o["path"].(string); ok && strings.HasSuffix(p, "/pr-helper0.sock") {
				o["path"] = "managed" // libvirt and luksplug have it in different directories
			}
		}
		if err := w.objectsOf(o, prefix+member+":"); err != nil {
			return err
		}
	}
	return nil
}

// Without returns the form with members removed from the device: those that each side is free to choose.
func (f Form) Without(members ...string) Form {
	f.Device = maps.Clone(f.Device)
	for _, m := range members {
		delete(f.Device, m)
	}
	return f
}

// Diff lists the differences of two forms: lines of a name, the value in f, and the value in other.
func (f Form) Diff(other Form) []string {
	var out []string
	others := other.lists()
	for i, l := range f.lists() {
		a, b := l.names(), others[i].names()
		if !slices.Equal(a, b) {
			out = append(out, fmt.Sprintf("%ss: %s | %s", l.what, strings.Join(a, " "), strings.Join(b, " ")))
			continue
		}
		for j, name := range a {
			out = append(out, diff(l.what+" "+name, l.parts[j], others[i].parts[j])...)
		}
	}
	out = append(out, diff("device", f.Device, other.Device)...)
	if f.Controller != other.Controller && f.Controller != "" && other.Controller != "" {
		out = append(out, "controller: "+f.Controller+" | "+other.Controller)
	}
	return out
}

// list is one of the lists of a form.
type list struct {
	what, name string // name is the member that names a part
	parts      []map[string]any
}

func (f Form) lists() []list {
	return []list{{"object", "id", f.Objects}, {"node", "node-name", f.Nodes}, {"chardev", "id", f.Chardevs}}
}

func (l list) names() []string {
	var out []string
	for _, p := range l.parts {
		out = append(out, fmt.Sprint(p[l.name]))
	}
	return out
}

func diff(what string, a, b map[string]any) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if x, y := show(a, k), show(b, k); x != y {
			out = append(out, fmt.Sprintf("%s, %s: %s | %s", what, k, x, y))
		}
	}
	return out
}

func show(m map[string]any, key string) string {
	v, ok := m[key]
	if !ok {
		return "none"
	}
	return encode(v)
}

func encode(v any) string {
	text, _ := json.Marshal(v) // what JSON was decoded to, or strings and numbers
	return string(text)
}

// String returns the form, an object, node or device a line.
func (f Form) String() string {
	var b strings.Builder
	for _, l := range append(f.lists(), list{what: "device", parts: []map[string]any{f.Device}}) {
		for _, p := range l.parts {
			fmt.Fprintf(&b, "%s %s\n", l.what, encode(p))
		}
	}
	return b.String()
}
