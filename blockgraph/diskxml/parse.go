package diskxml

import (
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
)

// ParseDisk reads a libvirt <disk> document. It is strict: an unknown element or attribute is
// an [*XMLError], one that libvirt knows and this package does not support is a
// [*blockgraph.UnsupportedError]; nothing is ignored. The grammar is libvirt's
// (formatdomain.html, "Hard drives, floppy disks, CDROMs") plus <header>, for a detached LUKS
// header.
//
// [ParseOptions] can skip unknown elements, such as those of a newer libvirt.
func ParseDisk(data []byte) (*blockgraph.Disk, error) { return parseDisk(data, nil) }

func parseDisk(data []byte, skip *skipped) (*blockgraph.Disk, error) {
	tree, read, err := readTree(data)
	if err != nil {
		return nil, err
	}
	return parseDiskTree(tree, read, skip)
}

func parseDiskTree(tree *element, read *tokens, skip *skipped) (*blockgraph.Disk, error) {
	if tree.name != "disk" {
		return nil, tree.invalid("", "the document is a <%s>, not a <disk>", tree.name)
	}
	// First, because each type has its own attributes: an unknown type gives the better message.
	if _, err := sourceKind(tree); err != nil {
		return nil, err
	}
	dropEmptyPath(tree)
	if err := diskRule.check(tree, skip); err != nil {
		return nil, err
	}
	p := &parser{tree: tree}
	disk, err := p.disk(read)
	if err != nil {
		return nil, err
	}
	if mirror := tree.child("mirror"); mirror != nil {
		disk.Ignored = append(disk.Ignored, fmt.Sprintf("line %d: the <mirror> is a block job of the VM that the XML is from: it is not started here", mirror.line))
	}
	if skip != nil {
		disk.Ignored = append(disk.Ignored, skip.words...)
	}
	if err := disk.Validate(); err != nil {
		return nil, locate(err, tree)
	}
	return disk, nil
}

// parser combines the values of libvirtxml and the tree, which has their positions.
type parser struct {
	tree *element
	doc  libvirtxml.DomainDisk
}

func (p *parser) disk(read *tokens) (*blockgraph.Disk, error) {
	d := &blockgraph.Disk{}
	// Before libvirtxml, whose errors for malformed numbers have no position.
	for _, read := range []func(*blockgraph.Disk) error{p.device, p.target, p.transient, p.image, p.driver, p.throttling} {
		if err := read(d); err != nil {
			return nil, err
		}
	}
	if err := xml.NewTokenDecoder(&outline{tokens: read}).Decode(&p.doc); err != nil {
		return nil, malformed("", err)
	}
	for _, read := range []func(*blockgraph.Disk) error{p.identity, p.tuning} {
		if err := read(d); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// ParseOptions say how a document is parsed. The zero value is strict.
type ParseOptions struct {
	// IgnoreUnknown: unknown elements and attributes, such as those of a newer libvirt, are
	// skipped and listed in [blockgraph.Disk.Warnings]. A probable misspelling of a known
	// name, and anything unknown in <encryption>, are still refused: a disk must not lose its
	// encryption through a typo.
	IgnoreUnknown bool
}

// ParseDisk is [ParseDisk] with these options.
func (o ParseOptions) ParseDisk(data []byte) (*blockgraph.Disk, error) {
	if !o.IgnoreUnknown {
		return parseDisk(data, nil)
	}
	return parseDisk(data, &skipped{})
}
