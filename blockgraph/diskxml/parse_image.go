package diskxml

import (
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/internal/qemuimg"
	"github.com/luksplug/luksplug/secrets"
)

// image reads the top layer from <driver>, <source>, <backingStore> and, directly
// under <disk> as in old XML, <auth> and <encryption>.
//
// It reads the tree: libvirtxml has no <header>, and drops elements of another
// kind of source.
func (p *parser) image(d *blockgraph.Disk) error {
	driver := p.tree.child("driver")
	if err := p.imageDriver(d, driver); err != nil {
		return err
	}
	src := p.tree.child("source")
	if d.Empty {
		if err := p.noImage(driver); err != nil || src == nil {
			return err
		}
		return p.startup(d, src)
	}
	outer := sides{auth: p.tree.child("auth"), encryption: p.tree.child("encryption")}
	image, err := parseLayer(p.tree, src, outer)
	if err != nil {
		return err
	}
	image.Format = blockgraph.FormatRaw
	d.FormatAssumed = driver == nil || driver.attr("type") == ""
	if !d.FormatAssumed {
		if image.Format, err = parseFormat(driver, driver.attr("type")); err != nil {
			return err
		}
	}
	if driver != nil {
		if image.MetadataCache, err = parseMetadataCache(driver); err != nil {
			return err
		}
	}
	if err := parseBacking(p.tree, &image); err != nil {
		return err
	}
	d.Image = image
	if err := d.Recover(d.Recovery()); err != nil {
		return err
	}
	return p.startup(d, src)
}

// noImage refuses the settings of an image on an empty drive.
func (p *parser) noImage(driver *element) error {
	if driver != nil && driver.attr("type") != string(blockgraph.FormatQcow2) {
		if c := driver.child("metadata_cache"); c != nil && c.child("max_size") != nil {
			return c.invalid("", "metadata cache max size control is supported only with qcow2 images")
		}
		if driver.attr("discard_no_unref") == "on" {
			return driver.invalid("discard_no_unref", "'discard_no_unref' only works with qcow2 disk format")
		}
	}
	for _, parent := range []*element{p.tree, p.tree.child("source")} {
		for _, name := range []string{"encryption", "auth", "dataStore", "slices", "reservations"} {
			if parent == nil {
				continue
			}
			if e := parent.child(name); e != nil {
				return e.invalid("", "there is no <source> that it could apply to")
			}
		}
	}
	if b := p.tree.child("backingStore"); b != nil && len(b.children) > 0 {
		return b.invalid("", "there is no <source> that it could apply to")
	}
	return nil
}

// imageDriver reads the attributes of <driver> that apply to all layers.
func (p *parser) imageDriver(d *blockgraph.Disk, driver *element) error {
	if driver == nil {
		return nil
	}
	for _, attr := range []string{"copy_on_read", "discard_no_unref"} {
		if err := oneOf(driver, attr, "on", "off"); err != nil {
			return err
		}
	}
	if driver.attr("copy_on_read") != "" && !d.Empty && p.tree.attr("type") == string(blockgraph.SourceVHostUser) {
		return driver.invalid("copy_on_read", "copy_on_read is not supported with vhostuser disk")
	}
	d.CopyOnRead = driver.attr("copy_on_read") == "on"
	d.DiscardNoUnref = blockgraph.Switch(driver.attr("discard_no_unref"))
	return nil
}

// startup reads source@startupPolicy, which libvirt applies if the image is
// missing when a VM starts. A disk that is being attached must have its image.
func (p *parser) startup(d *blockgraph.Disk, src *element) error {
	policy := src.attr("startupPolicy")
	switch {
	case policy == "":
		return nil
	case !slices.Contains([]string{"mandatory", "requisite", "optional"}, policy):
		return src.invalid("startupPolicy", "unknown value %q: use mandatory, requisite or optional", message.Shorten(policy))
	case d.Image.Source.Kind == blockgraph.SourceNetwork:
		return src.invalid("startupPolicy", "disk startupPolicy '%s' is not allowed for disk of 'network' type", policy)
	case policy == "requisite" && !d.Device.Removable():
		return src.invalid("startupPolicy", "disk startupPolicy 'requisite' is allowed only for cdrom or floppy")
	}
	return nil
}

// sides are the <auth> and <encryption> next to a <source>.
type sides struct{ auth, encryption *element }

// parseLayer reads the <source> of an image; owner has its type. The caller reads
// the format and the layer below.
func parseLayer(owner, src *element, outer sides) (blockgraph.Image, error) {
	auth, err := oneOfTwo(outer.auth, src.child("auth"))
	if err != nil {
		return blockgraph.Image{}, err
	}
	encryption, err := oneOfTwo(outer.encryption, src.child("encryption"))
	if err != nil {
		return blockgraph.Image{}, err
	}
	var image blockgraph.Image
	if image.Source, err = parseSource(owner, src, auth); err != nil {
		return image, err
	}
	if encryption != nil {
		if image.Encryption, err = parseEncryption(encryption); err != nil {
			return image, err
		}
	}
	if store := src.child("dataStore"); store != nil {
		image.DataStore, err = parseStored(store)
	}
	return image, err
}

// oneOfTwo returns the element that is not nil, and refuses two.
func oneOfTwo(outer, inner *element) (*element, error) {
	switch {
	case outer == nil:
		return inner, nil
	case inner == nil:
		return outer, nil
	}
	return nil, outer.invalid("", "an <%s> definition already found for disk source: keep one of the two", outer.name)
}

// parseBacking reads the <backingStore> in e into image. An empty one ends the
// chain.
func parseBacking(e *element, image *blockgraph.Image) error {
	store := e.child("backingStore")
	if store == nil {
		return nil
	}
	if store.attr("type") == "" {
		if len(store.children) > 0 {
			// libvirt treats it as empty, and ignores the rest.
			return store.invalid("type", "is missing: it says what kind of <source> is in it")
		}
		image.Terminated = true
		return nil
	}
	below, err := parseStored(store)
	if err != nil {
		return err
	}
	image.Backing = below
	return parseBacking(store, below)
}

// parseStored reads a <backingStore>, <dataStore> or <header>, without the layer
// below it.
func parseStored(e *element) (*blockgraph.Image, error) {
	src, format := e.child("source"), e.child("format")
	if src == nil {
		return nil, e.invalid("", "missing source: it says where the %s is", storedNames[e.name])
	}
	if (format == nil || format.attr("type") == "") && e.name != "header" {
		return nil, e.invalid("", "missing %s format: give <format type=.../>", storedNames[e.name])
	}
	image, err := parseLayer(e, src, sides{})
	if err != nil {
		return nil, err
	}
	image.Format = blockgraph.FormatRaw
	if format == nil {
		return &image, nil
	}
	if format.attr("type") == "" {
		return nil, format.invalid("type", "is missing: use type='raw' or type='qcow2'")
	}
	if image.Format, err = parseFormat(format, format.attr("type")); err != nil {
		return nil, err
	}
	image.MetadataCache, err = parseMetadataCache(format)
	return &image, err
}

// storedNames are libvirt's names for the content of the elements.
var storedNames = map[string]string{"backingStore": "disk backing store", "dataStore": "data file store", "header": "LUKS header"}

func parseFormat(e *element, name string) (blockgraph.Format, error) {
	if f := blockgraph.Format(name); f.Valid() {
		return f, nil
	}
	switch name {
	case "aio": // libvirt's old spelling, still read by it
		return blockgraph.FormatRaw, nil
	case "cow":
		return "", e.unsupported("type", "'cow' storage format is not supported")
	case "dir":
		return "", e.unsupported("type", "'directory' storage format is not directly supported by QEMU: use the disk's type='dir' instead, and the format 'fat'")
	case "iso":
		return "", e.unsupported("type", "storage format 'iso' is not directly supported by QEMU: use 'raw' instead")
	}
	return "", e.invalid("type", "unknown format %q: use raw or qcow2", message.Shorten(name))
}

// parseMetadataCache reads the <metadata_cache> in a <driver> or <format>.
func parseMetadataCache(e *element) (uint64, error) {
	cache := e.child("metadata_cache")
	if cache == nil || cache.child("max_size") == nil {
		return 0, nil
	}
	return parseSize(cache.child("max_size"))
}

// parseSize reads an element with a number of bytes, or of its unit.
func parseSize(size *element) (uint64, error) {
	n, err := strconv.ParseUint(size.text, 10, 63)
	if err != nil {
		return 0, size.invalid("", "%q is no size: use decimal digits", message.Shorten(size.text))
	}
	scale, ok := unitBytes(size.attr("unit"))
	if !ok {
		return 0, size.invalid("unit", "unknown suffix %q: use bytes, KiB, MiB or GiB", message.Shorten(size.attr("unit")))
	}
	if n > 1<<62/scale {
		return 0, size.invalid("", "is too large")
	}
	return n * scale, nil
}

// unitBytes returns the bytes of one of libvirt's units: k is a KiB, and kB is
// 1000 bytes (virScaleInteger).
func unitBytes(unit string) (uint64, bool) {
	letter, rest := "", strings.ToLower(unit)
	if rest == "" || rest == "b" || rest == "byte" || rest == "bytes" {
		return 1, true
	}
	letter, rest = rest[:1], rest[1:]
	base := uint64(1024)
	switch rest {
	case "", "ib":
	case "b":
		base = 1000
	default:
		return 0, false
	}
	power := strings.Index("kmgtpe", letter)
	if power < 0 {
		return 0, false
	}
	scale := base
	for range power {
		scale *= base
	}
	return scale, true
}

// parseEncryption reads an <encryption>.
func parseEncryption(e *element) (*blockgraph.Encryption, error) {
	if c := e.child("cipher"); c != nil {
		return nil, c.invalid("", "supplying <cipher> for domain disk definition is unnecessary: the header has it")
	}
	if i := e.child("ivgen"); i != nil {
		return nil, i.invalid("", "ivgen element found, but cipher is missing: the header has both")
	}
	out := &blockgraph.Encryption{Format: blockgraph.EncryptionFormat(e.attr("format")), Engine: blockgraph.Engine(e.attr("engine"))}
	switch out.Format {
	case blockgraph.EncryptionLUKS, blockgraph.EncryptionLUKS2, blockgraph.EncryptionLUKSAny:
	case "qcow", "default":
		return nil, e.unsupported("format", "the old encryption of qcow and qcow2 images (format %q) is not supported, and no QEMU that runs VMs opens it any more: "+
			"write format='luks' if the volume is LUKS; convert an image with the old encryption with `%s`; make a new volume with `luksplug volume create`", string(out.Format), qemuimg.ConvertOld("OLD"))
	case "":
		return nil, e.invalid("format", "is missing: use format='luks'")
	default:
		return nil, e.invalid("format", "unknown volume encryption format type %q: use format='luks', for LUKS1 and LUKS2", message.Shorten(string(out.Format)))
	}
	switch out.Engine {
	case "", blockgraph.EngineQEMU, blockgraph.EngineLibRBD:
	default:
		return nil, e.invalid("engine", "unknown encryption engine %q: use qemu or librbd", message.Shorten(string(out.Engine)))
	}
	for _, s := range e.children {
		if s.name != "secret" {
			continue
		}
		ref, err := parseSecret(s)
		if err != nil {
			return nil, err
		}
		if ref.Type != secrets.Passphrase {
			return nil, s.invalid("type", "unknown volume encryption secret type %q: an encrypted disk needs type='passphrase'", message.Shorten(string(ref.Type)))
		}
		out.Secrets = append(out.Secrets, ref)
	}
	if h := e.child("header"); h != nil {
		var err error
		if out.Header, err = parseStored(h); err != nil {
			return nil, err
		}
		if err := oneOf(h, "recover", string(blockgraph.RecoveryReadOnly), string(blockgraph.RecoveryReadWrite)); err != nil {
			return nil, err
		}
		out.Recovery = blockgraph.Recovery(h.attr("recover"))
	}
	return out, nil
}
