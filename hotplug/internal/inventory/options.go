package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// Options are the options of a block node, flat, such as QEMU's "server.host". Values are text.
type Options map[string]string

// longestName is the length of the longest name of an image in QEMU (PATH_MAX, struct BlockDriverState).
const longestName = 4096

// ParseOptions parses "json:{...}", and returns nil for anything else, which includes a text that is longer than
// QEMU's names: the names of nested options grow with the square of its length.
func ParseOptions(file string) Options {
	text, found := strings.CutPrefix(file, "json:")
	if !found || len(file) > longestName {
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

// Add adds a value, and the values in it under longer names.
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

// Below returns the options of a child, nil if there are none.
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

// Own returns the options without those of children.
func (o Options) Own() Options {
	out := maps.Clone(o)
	for name := range o {
		child, _, _ := strings.Cut(name, ".")
		if _, isChild := o[child+".driver"]; isChild && child != name {
			delete(out, name)
		}
	}
	// QEMU replaces a child by its file name if that describes it completely.
	for _, child := range []string{"file", "header", "backing", "data-file"} {
		delete(out, child)
	}
	return out
}

// text returns the options without those of children as [ParseOptions] takes them, "" for none.
func (o Options) text() string {
	if o == nil {
		return ""
	}
	text, err := json.Marshal(o.Own())
	if err != nil { // of no map of texts
		return ""
	}
	return "json:" + string(text)
}

// ImageName returns a human-readable name of an image from the "file" of its node.
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

// ImageURL returns the URL by which QEMU describes the options of a server's image
// (nbd_refresh_filename and others), "" if QEMU uses none, or for other drivers.
func ImageURL(o Options) string {
	host := o["server.host"] + ":" + o["server.port"] // without brackets, also for IPv6
	switch o["driver"] {
	case "http", "https", "ftp", "ftps", "tftp":
		return o["url"]
	case "ssh":
		if o["user"] == "" {
			return "" // QEMU adds the name of its own user
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
