package check

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
)

// element returns the element of a disk's XML for a file that an image names. source is
// that of the image.
func element(ref image.Reference, source blockgraph.Source) string {
	name := "backingStore"
	if ref.Role == image.Data {
		name = "dataStore"
	}
	kind, inner := sourceOf(ref, source)
	return fmt.Sprintf("<%s type='%s'><format type='%s'/>%s</%[1]s>", name, kind, formatOf(ref.Format), inner)
}

// formatOf returns libvirt's name of a format of QEMU's; raw for one that an image does
// not say or that a disk cannot have. As raw, no image leads to another file.
func formatOf(driver string) blockgraph.Format {
	switch f := blockgraph.Format(driver); {
	case driver == "vhdx":
		return blockgraph.FormatVHD
	case driver == "parallels":
		return blockgraph.FormatPloop
	case f.Valid() && f != blockgraph.FormatFAT:
		return f
	}
	return blockgraph.FormatRaw
}

// sourceOf returns the type of a <source> and the element for a reference of an image:
// a path, a name in QEMU's older syntax, a URL, or "json:" with a block node's options.
func sourceOf(ref image.Reference, source blockgraph.Source) (kind, inner string) {
	if path, ok := ref.Path(cmp.Or(source.Path, "/")); ok {
		if source.Network != nil && !strings.HasPrefix(ref.Name, "/") { // QEMU looks for it on the same server
			return network(source.Network.Protocol(), ref.Name, "")
		}
		return fileSource(path)
	}
	if text, ok := strings.CutPrefix(ref.Name, "json:"); ok {
		var node map[string]any
		if json.Unmarshal([]byte(text), &node) == nil {
			return nodeSource(node)
		}
	}
	if u, err := url.Parse(ref.Name); err == nil && u.Scheme != "" && u.Opaque == "" {
		protocol, transport, _ := strings.Cut(u.Scheme, "+")
		server := hostTag(u.Hostname(), u.Port())
		if transport == "unix" {
			server = tag("host", "transport", "unix", "socket", u.Query().Get("socket"))
		}
		return network(protocol, strings.TrimPrefix(u.Path, "/"), server)
	}
	if rest, ok := strings.CutPrefix(ref.Name, "nbd:"); ok {
		address, export, _ := strings.Cut(rest, ":exportname=")
		if socket, unix := strings.CutPrefix(address, "unix:"); unix {
			return network("nbd", export, tag("host", "transport", "unix", "socket", socket))
		}
		name, port, _ := net.SplitHostPort(address)
		return network("nbd", export, hostTag(name, port))
	}
	protocol, rest, _ := strings.Cut(ref.Name, ":")
	return network(protocol, rest, "")
}

func fileSource(path string) (kind, inner string) {
	if strings.HasPrefix(path, "/dev/") {
		return "block", tag("source", "dev", path)
	}
	return "file", tag("source", "file", path)
}

// nodeSource returns the source of a block node's options, which may be nested or have
// names with dots. Formats above the source are left out.
func nodeSource(node map[string]any) (kind, inner string) {
	get := func(names ...string) string {
		for _, name := range names {
			if text, ok := lookUp(node, name).(string); ok && text != "" {
				return text
			}
		}
		return ""
	}
	for _, file := range []string{"filename", "file.filename", "file.file.filename"} {
		if path, ok := (image.Reference{Name: get(file)}).Path("/"); ok {
			return fileSource(path)
		}
	}
	if server := get("server.path", "file.server.path", "path", "file.path"); server != "" && get("server.type", "file.server.type") != "inet" {
		return network(cmp.Or(get("file.driver"), get("driver")), get("export", "file.export"), tag("host", "transport", "unix", "socket", server))
	}
	protocol := cmp.Or(get("file.driver"), get("driver"))
	name := get("export", "file.export", "image", "file.image", "path", "file.path", "url", "file.url")
	return network(protocol, name, hostTag(get("server.host", "file.server.host", "host", "file.host"), get("server.port", "file.server.port", "port", "file.port")))
}

// lookUp returns the member of a nested object with a name in which dots separate levels.
func lookUp(node map[string]any, name string) any {
	if value, ok := node[name]; ok {
		return value
	}
	for i := range name {
		if name[i] != '.' {
			continue
		}
		if inner, ok := node[name[:i]].(map[string]any); ok {
			if value := lookUp(inner, name[i+1:]); value != nil {
				return value
			}
		}
	}
	return nil
}

func network(protocol, name, host string) (kind, inner string) {
	start := tag("source", "protocol", protocol, "name", name)
	if host == "" {
		return "network", start
	}
	return "network", strings.TrimSuffix(start, "/>") + ">" + host + "</source>"
}

func hostTag(name, port string) string {
	if name == "" {
		return ""
	}
	return tag("host", "name", name, "port", port)
}

// tag returns an empty element, without attributes that have no value.
func tag(name string, attributes ...string) string {
	var b strings.Builder
	b.WriteString("<" + name)
	for i := 0; i+1 < len(attributes); i += 2 {
		if attributes[i+1] == "" {
			continue
		}
		b.WriteString(" " + attributes[i] + "='")
		_ = xml.EscapeText(&b, []byte(attributes[i+1])) // a Builder returns no error
		b.WriteString("'")
	}
	return b.String() + "/>"
}
