package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// Options are those of a block node, flat: QEMU's "server.host". Values are text.
type Options map[string]string

// ParseOptions reads "json:{...}", nil for anything else.
func ParseOptions(file string) Options {
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
	out := Options{}
	for name, value := range members {
		out.Add(name, value)
	}
	return out
}

// Add adds a value, and those inside of it under longer names.
func (o Options) Add(name string, value any) {
	switch x := value.(type) {
	case map[string]any:
		for member, v := range x {
			o.Add(name+"."+member, v)
		}
	case blockgraph.Object:
		for _, m := range x {
			o.Add(name+"."+m.Name, m.Value)
		}
	case []any:
		for i, v := range x {
			o.Add(name+"."+strconv.Itoa(i), v)
		}
	case nil:
	default:
		o[name] = fmt.Sprint(value)
	}
}

// Below returns the options of a child, nil where there are none.
func (o Options) Below(member string) Options {
	var out Options
	for name, value := range o {
		if rest, found := strings.CutPrefix(name, member+"."); found {
			if out == nil {
				out = Options{}
			}
			out[rest] = value
		}
	}
	if out["driver"] == "" {
		return nil
	}
	return out
}

// Own leaves out the options of children.
func (o Options) Own() Options {
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

// ImageName names an image for people by the "file" of its node.
func ImageName(file string) string {
	o := ParseOptions(file)
	if o == nil {
		return file
	}
	o = o.Own()
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
	if url := ImageURL(o); url != "" {
		return url
	}
	return file
}

// ImageURL is what QEMU makes of the options of a server's image where a URL says
// it all (nbd_refresh_filename and others), "" for drivers of which it is not known
// here.
func ImageURL(o Options) string {
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
