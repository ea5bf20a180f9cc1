package blockgraph

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// ParseDisk reads a libvirt <disk> document. It is strict: an element or
// attribute that is not known is an [*XMLError], one that libvirt knows and
// this package does not support an [*UnsupportedError]; nothing is ignored.
// The grammar is libvirt's (formatdomain.html, "Hard drives, floppy disks,
// CDROMs") and one element more, <header>, for a detached LUKS header.
//
// [ParseOptions] has a way to read what a newer libvirt may write.
func ParseDisk(data []byte) (*Disk, error) { return parseDisk(data, nil) }

func parseDisk(data []byte, skip *skipped) (*Disk, error) {
	tree, read, err := readTree(data)
	if err != nil {
		return nil, err
	}
	if tree.name != "disk" {
		return nil, tree.invalid("", "the document is a <%s>, not a <disk>", tree.name)
	}
	// First, because another type brings attributes of its own: to refuse
	// those one by one would hide what the matter is.
	if _, err := sourceKind(tree); err != nil {
		return nil, err
	}
	if err := diskRule.check(tree, skip); err != nil {
		return nil, err
	}
	p := &parser{tree: tree}
	disk, err := p.disk(read)
	if err != nil {
		return nil, err
	}
	if mirror := tree.child("mirror"); mirror != nil {
		disk.ignored = append(disk.ignored, fmt.Sprintf("line %d: the <mirror> is a block job of the VM that the XML is from: it is not started here", mirror.line))
	}
	if skip != nil {
		disk.ignored = append(disk.ignored, skip.words...)
	}
	if err := disk.Validate(); err != nil {
		return nil, locate(err, tree)
	}
	return disk, nil
}

// locate adds the line to an error of [Disk.Validate], which knows no text.
func locate(err error, tree *element) error {
	var invalid *XMLError
	if !errors.As(err, &invalid) || invalid.Line != 0 {
		return err
	}
	path, _, _ := strings.Cut(invalid.Element, "@")
	at := tree
	if e := tree.find(path); e != nil {
		at = e
	}
	return &XMLError{Element: invalid.Element, Line: at.line, Reason: invalid.Reason}
}

// parser joins the two views of one document: libvirtxml's values and the
// tree, which knows where they stand.
type parser struct {
	tree *element
	doc  libvirtxml.DomainDisk
}

func (p *parser) disk(read *tokens) (*Disk, error) {
	d := &Disk{}
	// Before libvirtxml, whose errors for a bad number do not say where it is.
	for _, read := range []func(*Disk) error{p.device, p.target, p.transient, p.image, p.driver, p.throttling} {
		if err := read(d); err != nil {
			return nil, err
		}
	}
	if err := xml.NewTokenDecoder(&outline{tokens: read}).Decode(&p.doc); err != nil {
		return nil, malformed("", err)
	}
	for _, read := range []func(*Disk) error{p.identity, p.tuning} {
		if err := read(d); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func notDefault(value string) string {
	if value == "default" {
		return ""
	}
	return value
}
