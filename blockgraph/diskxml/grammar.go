package diskxml

import (
	"encoding/xml"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// rule says what may stand in one element of a disk. Whatever is in none of
// its lists is unknown to libvirt too, and is refused as a mistake; what
// libvirt knows and this package does not do is refused as unsupported.
// Nothing is ignored.
type rule struct {
	attrs     []string         // read
	inert     []string         // read by libvirt, and without effect on a disk that is being plugged
	numbers   []string         // of attrs and inert, those that hold a decimal number
	notAttrs  []string         // libvirt's, not supported here
	children  map[string]*rule // read
	not       []string         // libvirt's child elements, not supported here
	elsewhere []string         // attributes and elements that libvirt reads here for another kind of source
	text      bool             // the element holds text
	repeated  bool             // may stand more than once in its parent
	kinds     map[string]*rule // in place of all of the above, for a source: the rules by its kind or protocol
}

// diskRule is the grammar of <disk>, after libvirt's formatdomain.html
// (sections "Hard drives, floppy disks, CDROMs" and "Device address") and
// formatstorageencryption.html. <header> is our own.
var diskRule = &rule{
	attrs: []string{"type", "device", "model", "rawio", "sgio"},
	// snapshot@ only matters to libvirt's own snapshot commands.
	inert: []string{"snapshot"},
	children: map[string]*rule{
		"driver": {
			attrs: []string{"name", "type", "cache", "io", "discard", "detect_zeroes", "error_policy", "rerror_policy",
				"ioeventfd", "event_idx", "iothread", "queues", "queue_size", "iommu", "ats", "packed", "page_per_vq", "copy_on_read", "discard_no_unref"},
			numbers:  []string{"iothread", "queues", "queue_size"},
			notAttrs: []string{"max_bufsize"},
			children: map[string]*rule{"metadata_cache": metadataCacheRule(), "iothreads": {children: map[string]*rule{"iothread": {
				attrs: []string{"id"}, numbers: []string{"id"}, repeated: true,
				children: map[string]*rule{"queue": {attrs: []string{"id"}, numbers: []string{"id"}, repeated: true}},
			}}}},
			not: []string{"statistics"},
		},
		"source":       layerSource,
		"backingStore": backingStoreRule(),
		"mirror":       mirrorRule(),
		"auth":         authRule(),
		"target": {
			attrs: []string{"dev", "bus", "removable", "rotation_rate", "dpofua"},
			// tray@ is the state of a drive: libvirt writes it, and never sets it.
			inert:   []string{"tray"},
			numbers: []string{"rotation_rate"},
		},
		"readonly":   {},
		"shareable":  {},
		"transient":  {attrs: []string{"shareBacking"}},
		"serial":     {text: true},
		"wwn":        {text: true},
		"encryption": encryptionRule(),
		"vendor":     {text: true},
		"product":    {text: true},
		"boot":       {attrs: []string{"order", "loadparm"}, numbers: []string{"order"}},
		"acpi":       {attrs: []string{"index"}, numbers: []string{"index"}, notAttrs: []string{"nodeset"}},
		"blockio":    numbersRule("logical_block_size", "physical_block_size", "discard_granularity"),
		"geometry":   {attrs: []string{"cyls", "heads", "secs", "trans"}, numbers: []string{"cyls", "heads", "secs"}},
		"iotune":     limitsRule(),
		"throttlefilters": {children: map[string]*rule{
			"throttlefilter": {attrs: []string{"group"}, repeated: true},
		}},
		"alias": {attrs: []string{"name"}},
		"address": {
			attrs: []string{"type", "domain", "bus", "slot", "function", "multifunction", "controller", "target", "unit", "port",
				"cssid", "ssid", "devno"},
			notAttrs: []string{"reg", "iobase", "irq", "uid", "fid", "device", "base"},
			not:      []string{"zpci"},
		},
	},
	not: []string{"backenddomain"},
}

// numbersRule is an element whose attributes are all numbers.
func numbersRule(attrs ...string) *rule { return &rule{attrs: attrs, numbers: attrs} }

// limitsRule is <iotune>, whose elements all hold text.
func limitsRule() *rule {
	r := &rule{children: map[string]*rule{}}
	for _, name := range limitNames() {
		r.children[name] = &rule{text: true}
	}
	return r
}

// check refuses everything in e that r does not allow. What is unknown it takes
// off the tree instead where skip is not nil, and says so there.
func (r *rule) check(e *element, skip *skipped) error {
	if skip.cut(r, e) {
		return r.check(e, skip)
	}
	seen := make([]string, 0, len(e.attrs))
	for _, a := range e.attrs {
		name := a.Name.Local
		switch {
		case isNamespace(a):
			continue
		case a.Name.Space != "" && a.Name.Space != "xml":
			return e.invalid(name, "attributes of the namespace %q are not known", a.Name.Space)
		case slices.Contains(seen, name):
			return e.invalid(name, "the attribute is given twice")
		case slices.Contains(r.attrs, name), slices.Contains(r.inert, name):
			if err := r.checkValue(e, a); err != nil {
				return err
			}
		case slices.Contains(r.notAttrs, name):
			return e.unsupported(name, "%s", why(e.name+"@"+name))
		case slices.Contains(r.elsewhere, name):
			return e.invalid(name, "does not belong to this kind of source, and libvirt would pass over it")
		default:
			return e.invalid(name, "unknown attribute%s", suggest(name, r.attrs))
		}
		seen = append(seen, name)
	}
	if !r.text && e.text != "" {
		return e.invalid("", "holds text %q, which means nothing here", message.Shorten(e.text))
	}
	for i, c := range e.children {
		next, known := r.children[c.name]
		switch {
		case known:
		case slices.Contains(r.not, c.name):
			return c.unsupported("", "%s", why(c.name))
		case slices.Contains(r.elsewhere, c.name):
			return c.invalid("", "does not belong to this kind of source, and libvirt would pass over it")
		default:
			return c.invalid("", "unknown element%s", suggest(c.name, childNames(r)))
		}
		if !next.repeated && slices.ContainsFunc(e.children[:i], func(o *element) bool { return o.name == c.name }) {
			return c.invalid("", "the element stands more than once")
		}
		if next.kinds != nil {
			next = next.kind(e, c)
		}
		if err := next.check(c, skip); err != nil {
			return err
		}
	}
	return nil
}

// checkValue refuses a value that would be lost: libvirtxml cannot tell an
// empty one from a missing one, and names no element for one that is no number.
func (r *rule) checkValue(e *element, a xml.Attr) error {
	name := a.Name.Local
	if a.Value == "" {
		return e.invalid(name, "is empty: give a value, or leave the attribute out")
	}
	if slices.Contains(r.numbers, name) {
		if _, err := strconv.ParseUint(a.Value, 10, 31); err != nil {
			return e.invalid(name, "%q is no number: use decimal digits", message.Shorten(a.Value))
		}
	}
	return nil
}

func isNamespace(a xml.Attr) bool {
	return a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns"
}

func childNames(r *rule) []string {
	names := make([]string, 0, len(r.children))
	for n := range r.children {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// suggest names the known word that was probably meant: one that differs in
// case, or by one letter.
func suggest(word string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(word, k) || oneEdit(word, k) {
			return ": did you mean " + k + "?"
		}
	}
	return ""
}

// oneEdit reports whether one letter added, removed or replaced, or two next to each
// other swapped, make a into b.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch {
	case len(a) < len(b):
		return a[i:] == b[i+1:]
	case i == len(a):
		return false
	case a[i+1:] == b[i+1:]:
		return true
	}
	return i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
}
