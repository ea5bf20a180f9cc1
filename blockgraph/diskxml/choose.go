package diskxml

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// ErrNotOneDisk means that a document is of a whole domain, and the disk that is meant has to be named: see [ChooseDisk].
var ErrNotOneDisk = errors.New("the document is not of one disk")

// ChooseDisk returns the text of the <disk> with this target in a document that is a <domain>, a <devices>, or a
// <domainsnapshot> or other element around a <domain>; a <disk> alone is returned as it is. The text is in UTF-8, and in
// the same lines as in the document.
//
// Errors are of type [*XMLError]. With target "", the error for every document but a <disk> lists its disks, and wraps
// [ErrNotOneDisk]; so does the one if none of its disks, or more than one, has the target.
func ChooseDisk(data []byte, target string) ([]byte, error) {
	if len(data) > 16*maxXMLBytes {
		return nil, &XMLError{Reason: fmt.Sprintf("%d bytes are more than a domain can need", len(data))}
	}
	data, err := utf8Text("", data)
	if err != nil {
		return nil, err
	}
	d := diskFinder{data: data, line: lineCounter(data)}
	if err := d.read(); err != nil {
		return nil, err
	}
	if d.root == "disk" && (target == "" || len(d.disks) == 1 && d.disks[0].target == target) || !d.container() {
		return data, nil // another document is refused by ParseDisk
	}
	matches := slices.DeleteFunc(slices.Clone(d.disks), func(f foundDisk) bool { return f.target != target })
	if target == "" || len(matches) != 1 {
		return nil, d.refuse(target, len(matches))
	}
	found := matches[0]
	if len(found.text) > maxXMLBytes {
		return nil, &XMLError{Line: found.line, Reason: "the <disk> is larger than any can be"}
	}
	return append(bytes.Repeat([]byte{'\n'}, found.line-1), found.text...), nil
}

// foundDisk is a <disk> in a document.
type foundDisk struct {
	target, device, source string
	line                   int
	start                  int64
	text                   []byte
}

// String describes the disk for a list of them.
func (f foundDisk) String() string {
	what := cmp.Or(f.source, "empty")
	if f.device != "" && f.device != "disk" {
		what = f.device + ", " + what
	}
	return cmp.Or(f.target, "without a target") + " (" + what + ")"
}

// diskFinder finds the disks of a document.
type diskFinder struct {
	data  []byte
	line  func(int64) int
	root  string
	begin int // the line of the root
	path  []string
	disks []foundDisk
}

// read reads the document.
func (d *diskFinder) read() error {
	decoder := xml.NewDecoder(bytes.NewReader(d.data))
	inside := false // of the last disk
	for {
		at := decoder.InputOffset()
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return malformed("", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			if len(d.path) >= maxXMLDepth {
				return &XMLError{Line: d.line(at), Reason: fmt.Sprintf("elements are nested deeper than %d", maxXMLDepth)}
			}
			name := t.Name.Local
			if t.Name.Space != "" {
				name = "another:" + name
			}
			d.path = append(d.path, name)
			if len(d.path) == 1 {
				d.root, d.begin = name, d.line(at)
			}
			if !inside && d.isDisk() {
				d.disks = append(d.disks, foundDisk{line: d.line(at), device: attribute(t, "device"), start: at})
				inside = true
			} else if inside {
				d.detail(t)
			}
		case xml.EndElement:
			if inside && d.isDisk() {
				inside = false
				last := &d.disks[len(d.disks)-1]
				last.text = d.data[last.start:decoder.InputOffset()]
			}
			d.path = d.path[:len(d.path)-1]
		case xml.Directive:
			return &XMLError{Line: d.line(at), Reason: "a <!DOCTYPE> or other declaration is not allowed in disk XML"}
		}
	}
}

// detail takes the target and the source of the last disk from an element in it.
func (d *diskFinder) detail(t xml.StartElement) {
	last := &d.disks[len(d.disks)-1]
	switch parent := d.path[len(d.path)-2]; {
	case parent == "disk" && t.Name.Local == "target":
		last.target = attribute(t, "dev")
	case parent == "disk" && t.Name.Local == "source":
		last.source = cmp.Or(attribute(t, "file"), attribute(t, "dev"), attribute(t, "dir"), attribute(t, "volume"), attribute(t, "name"), attribute(t, "path"), attribute(t, "type"))
	}
}

// isDisk reports whether the path is that of a disk of the document.
func (d *diskFinder) isDisk() bool {
	path := d.path
	switch {
	case len(path) == 1:
		return path[0] == "disk"
	case path[0] != "devices" && path[0] != "domain": // a snapshot, a checkpoint, libvirt's status of a running domain
		path = path[1:]
	}
	if path[0] == "domain" {
		path = path[1:]
	}
	return slices.Equal(path, []string{"devices", "disk"})
}

// container reports whether the document can have disks in it.
func (d *diskFinder) container() bool {
	return len(d.disks) > 0 || d.root == "domain" || d.root == "devices" || d.root == "domainsnapshot"
}

// refuse returns the error if no disk, or more than one, has the target.
func (d *diskFinder) refuse(target string, matches int) error {
	const most = 20
	var names []string
	for _, f := range d.disks[:min(len(d.disks), most)] {
		names = append(names, f.String())
	}
	if len(d.disks) > most {
		names = append(names, fmt.Sprintf("%d more", len(d.disks)-most))
	}
	list := strings.Join(names, ", ")
	err := &XMLError{Element: d.root, Line: d.begin, Err: ErrNotOneDisk}
	switch {
	case len(d.disks) == 0:
		err.Reason, err.Err = fmt.Sprintf("the document is a <%s>, not a <disk>, and has no <disk> in it", d.root), nil
	case matches > 1:
		err.Reason = fmt.Sprintf("the document has %d disks with the target %q: give one of them alone", matches, message.Shorten(target))
	case target != "":
		err.Reason = fmt.Sprintf("the document has no disk with the target %q, but %s", message.Shorten(target), list)
	default:
		err.Reason = "the document is not one <disk>: choose one of its disks by the target: " + list
	}
	return err
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}
