package hotplug

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// options are those of a block node, flat: QEMU's "server.host". Values are text.
type options map[string]string

// differsInOptions compares the options of a graph's nodes with what QEMU tells of
// them. That is what it needs to open the image again, so that tuning is not among
// it: "file" is a URL, or "json:" and the options. A URL may lack some of them,
// which the node above has in its JSON.
func differsInOptions(graph *blockgraph.Graph, state *State) string {
	for _, want := range graph.Nodes {
		node := state.Node(want.Name)
		wanted := wantedOptions(want)
		if node == nil || wanted["filename"] != "" {
			continue // files are compared by what they are, not by name
		}
		have := openOptions(graph, state, want.Name)
		if have == nil {
			if url := imageURL(wanted); url != "" && node.File != url {
				return fmt.Sprintf("its node %s is of %s, not of %s", want.Name, node.File, url)
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(have)) {
			value, given := wanted[name]
			if !given && !servers[wanted["driver"]] {
				continue // an option that QEMU has completed
			}
			if value != have[name] {
				return fmt.Sprintf("its node %s has %s %s, not %s", want.Name, name, orNone(have[name]), orNone(value))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(wanted)) {
			if _, there := have[name]; !there && identifies[name] && !unsaid[wanted["driver"]+" "+name] {
				return fmt.Sprintf("its node %s has %s %s, not %s", want.Name, name, orNone(""), wanted[name])
			}
		}
	}
	return ""
}

// identifies are the options without which a server is another one, or another
// image of it, or somebody else comes to it.
var identifies = map[string]bool{
	"export": true, "tls-creds": true, "tls-hostname": true, // nbd
	"user": true, "username": true, "password-secret": true, "key-secret": true, "cookie-secret": true,
	"sslverify": true, "initiator-name": true, "namespace": true, "snapshot": true, "conf": true,
}

// unsaid are those of them that QEMU says nothing of (qemu_rbd_strong_runtime_opts).
var unsaid = map[string]bool{"rbd key-secret": true}

func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}

// servers are QEMU's drivers for servers, of which it tells just the options that
// it was given.
var servers = map[string]bool{
	"nbd": true, "iscsi": true, "rbd": true, "ssh": true, "nfs": true, "gluster": true,
	"http": true, "https": true, "ftp": true, "ftps": true, "tftp": true,
}

// wantedOptions are the options of a node but for those by which it refers to other
// nodes.
func wantedOptions(n blockgraph.Node) options {
	out := options{}
	for _, m := range n.Options {
		isChild := slices.ContainsFunc(n.Children, func(c blockgraph.Child) bool { return c.Member == m.Name })
		if !isChild && m.Value != nil {
			out.add(m.Name, m.Value)
		}
	}
	return out
}

// openOptions are the options that QEMU tells of a node, nil where it tells a name
// only.
func openOptions(graph *blockgraph.Graph, state *State, name string) options {
	if o := parseOptions(state.Node(name).File); o != nil {
		return o.own()
	}
	for _, parent := range graph.Nodes {
		node := state.Node(parent.Name)
		for _, c := range parent.Children {
			if c.Name != name || node == nil {
				continue
			}
			if o := parseOptions(node.File).below(c.Member); o != nil {
				return o.own()
			}
		}
	}
	return nil
}

// parseOptions reads "json:{...}", nil for anything else.
func parseOptions(file string) options {
	text, found := strings.CutPrefix(file, "json:")
	if !found {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil {
		return nil
	}
	out := options{}
	for name, value := range members {
		out.add(name, value)
	}
	return out
}

// add adds a value, and those inside of it under longer names.
func (o options) add(name string, value any) {
	switch x := value.(type) {
	case map[string]any:
		for member, v := range x {
			o.add(name+"."+member, v)
		}
	case blockgraph.Object:
		for _, m := range x {
			o.add(name+"."+m.Name, m.Value)
		}
	case []any:
		for i, v := range x {
			o.add(name+"."+strconv.Itoa(i), v)
		}
	case nil:
	default:
		o[name] = fmt.Sprint(value)
	}
}

// below returns the options of a child, nil where there are none.
func (o options) below(member string) options {
	var out options
	for name, value := range o {
		if rest, found := strings.CutPrefix(name, member+"."); found {
			if out == nil {
				out = options{}
			}
			out[rest] = value
		}
	}
	if out["driver"] == "" {
		return nil
	}
	return out
}

// own leaves out the options of children.
func (o options) own() options {
	out := maps.Clone(o)
	for name := range o {
		child, _, _ := strings.Cut(name, ".")
		if _, isChild := o[child+".driver"]; isChild && child != name {
			delete(out, name)
		}
	}
	// QEMU names a child by its file where that says it all.
	for _, child := range []string{"file", "header", "backing", "data-file"} {
		delete(out, child)
	}
	return out
}

// imageName names an image for people by the "file" of its node.
func imageName(file string) string {
	o := parseOptions(file)
	if o == nil {
		return file
	}
	o = o.own()
	switch o["driver"] {
	case "iscsi":
		return "iscsi://" + o["portal"] + "/" + o["target"] + "/" + o["lun"]
	case "rbd":
		name := []string{o["pool"]}
		if o["namespace"] != "" {
			name = append(name, o["namespace"])
		}
		text := "rbd:" + strings.Join(append(name, o["image"]), "/")
		if o["snapshot"] != "" {
			text += "@" + o["snapshot"]
		}
		return text
	}
	if url := imageURL(o); url != "" {
		return url
	}
	return file
}

// imageURL is what QEMU makes of the options of a server's image where a URL says
// it all (nbd_refresh_filename and others), "" for drivers of which it is not known
// here.
func imageURL(o options) string {
	host := o["server.host"] + ":" + o["server.port"] // without brackets, whatever the address
	switch o["driver"] {
	case "http", "https", "ftp", "ftps", "tftp":
		return o["url"]
	case "ssh":
		if o["user"] == "" {
			return "" // QEMU puts the name of its own user there
		}
		return "ssh://" + o["user"] + "@" + host + o["path"]
	case "nbd":
		export := ""
		if o["export"] != "" {
			export = "/" + o["export"]
		}
		if o["server.type"] == "unix" {
			return "nbd+unix://" + export + "?socket=" + o["server.path"]
		}
		return "nbd://" + host + export
	}
	return ""
}
