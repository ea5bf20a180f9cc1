package samedisk

import (
	"fmt"
	"maps"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
)

// differsInOptions compares the options of a graph's nodes with those in QEMU's "file" of
// them: a URL, or "json:" with the options. QEMU includes the options that it needs to
// open the image again, which excludes tuning. A URL may lack some of them, which the
// node above has in its JSON.
func differsInOptions(graph *blockgraph.Graph, state *inventory.State) string {
	for _, want := range graph.Nodes {
		node := state.Node(want.Name)
		wanted := wantedOptions(want)
		if node == nil || wanted["filename"] != "" {
			continue // files are compared by identity, not by name
		}
		have := openOptions(graph, state, want.Name)
		if have == nil {
			if url := inventory.ImageURL(wanted); url != "" && node.File != url {
				return fmt.Sprintf("its node %s is of %s, not of %s", want.Name, node.File, url)
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(have)) {
			value, given := wanted[name]
			if !given && !servers[wanted["driver"]] {
				continue // an option that QEMU has added
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

// identifies are the options that identify a server, its image, or the user.
var identifies = map[string]bool{
	"export": true, "tls-creds": true, "tls-hostname": true, // nbd
	"user": true, "username": true, "password-secret": true, "key-secret": true, "cookie-secret": true,
	"sslverify": true, "initiator-name": true, "namespace": true, "snapshot": true, "conf": true,
}

// unsaid are those of them that QEMU does not report (qemu_rbd_strong_runtime_opts).
var unsaid = map[string]bool{"rbd key-secret": true}

func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}

// servers are QEMU's drivers for servers, for which it reports exactly the options that
// it was given.
var servers = map[string]bool{
	"nbd": true, "iscsi": true, "rbd": true, "ssh": true, "nfs": true, "gluster": true,
	"http": true, "https": true, "ftp": true, "ftps": true, "tftp": true,
}

// wantedOptions returns the options of a node, without references to other nodes.
func wantedOptions(n blockgraph.Node) inventory.Options {
	out := inventory.Options{}
	for _, m := range n.Options {
		isChild := slices.ContainsFunc(n.Children, func(c blockgraph.Child) bool { return c.Member == m.Name })
		if !isChild && m.Value != nil {
			out.Add(m.Name, m.Value)
		}
	}
	return out
}

// openOptions returns the options that QEMU reports for a node, nil if it reports only a
// name.
func openOptions(graph *blockgraph.Graph, state *inventory.State, name string) inventory.Options {
	if o := inventory.ParseOptions(state.Node(name).File); o != nil {
		return o.Own()
	}
	for _, parent := range graph.Nodes {
		node := state.Node(parent.Name)
		for _, c := range parent.Children {
			if c.Name != name || node == nil {
				continue
			}
			if o := inventory.ParseOptions(node.File).Below(c.Member); o != nil {
				return o.Own()
			}
		}
	}
	return nil
}
