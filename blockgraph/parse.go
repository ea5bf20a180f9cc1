package blockgraph

import (
	"encoding/xml"
	"errors"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/secrets"
)

// ParseDisk reads a libvirt <disk> document. It is strict: an element or
// attribute that is not known is an [*XMLError], one that libvirt knows and
// this package does not support an [*UnsupportedError]; nothing is ignored.
// The grammar is libvirt's (formatdomain.html, "Hard drives, floppy disks,
// CDROMs") and one element more, <header>, for a detached LUKS header.
func ParseDisk(data []byte) (*Disk, error) {
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
	if err := diskRule.check(tree); err != nil {
		return nil, err
	}
	p := &parser{tree: tree}
	// Before libvirtxml, whose errors for these do not say where.
	if err := p.readTree(); err != nil {
		return nil, err
	}
	if err := xml.NewTokenDecoder(read).Decode(&p.doc); err != nil {
		return nil, malformed("", err)
	}
	disk, err := p.disk()
	if err != nil {
		return nil, err
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
	tree    *element
	doc     libvirtxml.DomainDisk
	source  Source
	address *Address
}

// readTree reads what libvirtxml cannot say enough about.
func (p *parser) readTree() error {
	src := p.tree.child("source")
	if src == nil {
		return p.tree.unsupported("", "a drive without a <source> (no medium) is not supported")
	}
	var err error
	if p.source, err = parseSource(p.tree, src); err != nil {
		return err
	}
	if a := p.tree.child("address"); a != nil {
		p.address, err = parseAddress(a)
	}
	return err
}

func (p *parser) disk() (*Disk, error) {
	d := &Disk{Device: DeviceKind(orDefault(p.doc.Device, string(DeviceDisk))), Address: p.address}
	switch d.Device {
	case DeviceDisk, DeviceCDROM, DeviceFloppy:
	case "lun":
		return nil, p.tree.unsupported("device", "SCSI pass-through (device='lun') is not supported: use device='disk'")
	default:
		return nil, p.tree.invalid("device", "unknown device %q: use disk, cdrom or floppy", shorten(string(d.Device)))
	}
	d.ReadOnly = p.doc.ReadOnly != nil || d.Device == DeviceCDROM
	if err := p.target(d); err != nil {
		return nil, err
	}
	if err := p.image(d); err != nil {
		return nil, err
	}
	if err := p.identity(d); err != nil {
		return nil, err
	}
	if v := p.doc.Driver; v != nil {
		if v.Name != "" && v.Name != "qemu" {
			return nil, p.tree.child("driver").unsupported("name", "the driver %q is not QEMU's: use name='qemu'", shorten(v.Name))
		}
		// "default" is libvirt's word for QEMU's own choice: the same as nothing.
		d.Driver = Driver{
			Cache: notDefault(v.Cache), IO: v.IO, Discard: notDefault(v.Discard), DetectZeroes: v.DetectZeros,
			ErrorPolicy: notDefault(v.ErrorPolicy), ReadErrorPolicy: notDefault(v.RErrorPolicy),
		}
	}
	return d, nil
}

func (p *parser) image(d *Disk) (err error) {
	d.Image = Image{Source: p.source, Format: FormatRaw, Terminated: p.tree.child("backingStore") != nil}
	if p.doc.Driver != nil && p.doc.Driver.Type != "" {
		if d.Image.Format, err = parseFormat(p.tree.child("driver"), p.doc.Driver.Type); err != nil {
			return err
		}
	}
	outer, inner := p.tree.child("encryption"), p.tree.child("source").child("encryption")
	switch {
	case outer != nil && inner != nil:
		return outer.invalid("", "an <encryption> definition already found for disk source: keep one of the two")
	case outer != nil:
		d.Image.Encryption, err = parseEncryption(outer, p.doc.Encryption)
	case inner != nil:
		d.Image.Encryption, err = parseEncryption(inner, p.doc.Source.Encryption)
	}
	return err
}

// parseSource reads a <source>; owner is the element whose type attribute says
// what kind it is. It reads the tree: libvirtxml drops the attribute that belongs
// to another kind.
func parseSource(owner, e *element) (Source, error) {
	kind, err := sourceKind(owner)
	if err != nil {
		return Source{}, err
	}
	want, wrong := "file", "dev"
	if kind == SourceBlock {
		want, wrong = wrong, want
	}
	if e.attr(wrong) != "" {
		return Source{}, e.invalid(wrong, "does not belong to type='%s', which has %s=", kind, want)
	}
	out := Source{Kind: kind, Path: e.attr(want)}
	if out.Path == "" {
		return Source{}, e.invalid(want, "is missing: a %s source needs the path", kind)
	}
	return out, nil
}

// sourceKind reads the type attribute of a <disk> or <header>.
func sourceKind(e *element) (SourceKind, error) {
	switch kind := orDefault(e.attr("type"), string(SourceFile)); kind {
	case "file", "block":
		return SourceKind(kind), nil
	case "dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa":
		return "", e.unsupported("type", "sources of type %q are not supported: use file or block", kind)
	default:
		return "", e.invalid("type", "unknown type %q: use file or block", shorten(kind))
	}
}

func parseFormat(e *element, name string) (Format, error) {
	switch f := Format(name); f {
	case FormatRaw, FormatQcow2:
		return f, nil
	case "aio": // libvirt's old spelling, still read by it
		return FormatRaw, nil
	case "iso":
		return "", e.unsupported("type", "storage format 'iso' is not directly supported by QEMU: use 'raw' instead")
	case "bochs", "cloop", "dmg", "vpc", "vdi", "qcow", "qed", "vmdk", "ploop", "luks", "vhd", "fat", "cow", "dir", "none", "auto":
		return "", e.unsupported("type", "'%s' storage format is not supported: use raw or qcow2", name)
	}
	return "", e.invalid("type", "unknown format %q: use raw or qcow2", shorten(name))
}

func parseEncryption(e *element, v *libvirtxml.DomainDiskEncryption) (*Encryption, error) {
	switch v.Format {
	case "luks":
	case "qcow", "default", "luks2", "luks-any":
		return nil, e.unsupported("format", "encryption format %q is not supported: use luks", v.Format)
	case "":
		return nil, e.invalid("format", "is missing: use format='luks'")
	default:
		return nil, e.invalid("format", "unknown encryption format %q: use luks", shorten(v.Format))
	}
	switch v.Engine {
	case "", "qemu":
	case "librbd":
		return nil, e.unsupported("engine", "encryption engine 'librbd' is only for rbd sources: use engine='qemu'")
	default:
		return nil, e.invalid("engine", "unknown encryption engine %q: use qemu", shorten(v.Engine))
	}
	if len(v.Secrets) != 1 {
		return nil, e.invalid("", "has %d <secret> elements: QEMU's LUKS takes exactly one", len(v.Secrets))
	}
	ref, err := parseSecret(e.child("secret"), v.Secrets[0])
	if err != nil {
		return nil, err
	}
	out := &Encryption{Secret: ref}
	if h := e.child("header"); h != nil {
		out.Header, err = parseHeader(h)
	}
	return out, err
}

func parseSecret(e *element, v libvirtxml.DomainDiskSecret) (secrets.Reference, error) {
	if v.Type != string(secrets.Passphrase) {
		return secrets.Reference{}, e.invalid("type", "invalid secret type %q: an encrypted disk needs type='passphrase'", shorten(v.Type))
	}
	if (v.UUID == "") == (v.Usage == "") {
		return secrets.Reference{}, e.invalid("", "needs either uuid= or usage=, and not both")
	}
	ref := secrets.Reference{Type: secrets.Passphrase, Usage: v.Usage}
	if v.UUID != "" {
		id, err := secrets.ParseUUID(v.UUID)
		if err != nil {
			return ref, e.invalid("uuid", "malformed uuid %q", shorten(v.UUID))
		}
		ref.UUID = id
	}
	if err := ref.Validate(); err != nil {
		return ref, e.invalid("", "%v", err)
	}
	return ref, nil
}

// parseHeader reads <header>. libvirtxml does not know the element, so the tree
// is read; the grammar is that of <backingStore>.
func parseHeader(e *element) (*Image, error) {
	src := e.child("source")
	if src == nil {
		return nil, e.invalid("", "has no <source>: it says where the LUKS header is")
	}
	source, err := parseSource(e, src)
	if err != nil {
		return nil, err
	}
	image := &Image{Source: source, Format: FormatRaw}
	if f := e.child("format"); f != nil {
		if f.attr("type") == "" {
			return nil, f.invalid("type", "is missing: use type='raw' or type='qcow2'")
		}
		if image.Format, err = parseFormat(f, f.attr("type")); err != nil {
			return nil, err
		}
	}
	return image, nil
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
