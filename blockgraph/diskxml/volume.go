package diskxml

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/internal/qemuimg"
	"github.com/luksplug/luksplug/secrets"
)

// ParseVolume reads a libvirt <volume> document, which describes a volume that is to be made (formatstorage.html, "Storage
// volume XML"), with luksplug's <header> in <encryption>. It is as strict as [ParseDisk]: the errors are an [*XMLError]
// or a [*blockgraph.UnsupportedError]. What libvirt refuses when it makes the volume is refused here if it follows from the
// document alone, and by [storagevol.QemuImg] otherwise.
func ParseVolume(data []byte) (*storagevol.Volume, error) {
	v, err := parseVolumeDocument(data)
	var invalid *XMLError
	if errors.As(err, &invalid) && invalid.Element == "" {
		invalid.Element = "volume"
	}
	return v, err
}

func parseVolumeDocument(data []byte) (*storagevol.Volume, error) {
	tree, _, err := readDocument(data, "volume")
	if err != nil {
		return nil, err
	}
	if tree.name != "volume" {
		return nil, &XMLError{Element: "volume", Line: tree.line, Reason: fmt.Sprintf("the document is a <%s>, not a <volume>", tree.name)}
	}
	if err := volumeRule().check(tree, nil); err != nil {
		return nil, err
	}
	v := &storagevol.Volume{Type: storagevol.Type(tree.attr("type"))}
	if err := oneOf(tree, "type", "file", "block", "dir", "network"); err != nil {
		return nil, err
	}
	if v.Name, err = volumeName(tree); err != nil {
		return nil, err
	}
	if v.Capacity, v.HasCapacity, err = optionalSize(tree, "capacity"); err != nil {
		return nil, err
	}
	if v.Allocation, v.HasAllocation, err = optionalSize(tree, "allocation"); err != nil {
		return nil, err
	}
	if err := parseVolumeBacking(v, tree.child("backingStore")); err != nil {
		return nil, err
	}
	if !v.HasCapacity && v.Backing == nil {
		return nil, tree.invalid("", "missing capacity element: give the size of the guest's disk, such as <capacity unit='GiB'>10</capacity>")
	}
	return v, parseTarget(v, tree.child("target"))
}

func volumeName(tree *element) (string, error) {
	name := tree.child("name")
	switch {
	case name == nil || name.text == "":
		return "", tree.invalid("", "missing volume name element: give <name>")
	case strings.ContainsAny(name.text, "/\n"):
		return "", name.invalid("", "volume name %q cannot contain '/' or a new line", message.Shorten(name.text))
	}
	return name.text, nil
}

func optionalSize(parent *element, name string) (size uint64, given bool, err error) {
	e := parent.child(name)
	if e == nil {
		return 0, false, nil
	}
	size, err = parseSize(e)
	return size, true, err
}

func parseVolumeBacking(v *storagevol.Volume, e *element) error {
	if e == nil {
		return nil
	}
	path := e.child("path")
	if path == nil || path.text == "" {
		if len(e.children) > 0 {
			return e.invalid("", "has no <path>: name the backing image, or remove the element")
		}
		return nil // libvirt prints an empty element for a volume without one
	}
	v.Backing = &storagevol.Backing{Path: path.text}
	if f := e.child("format"); f != nil {
		format, err := volumeFormat(f)
		if err != nil {
			return err
		}
		v.Backing.Format = format
	}
	return nil
}

// volumeFormats are libvirt's formats of volumes in files (virStorageFileFormat), and "luks": QEMU's name for a raw image
// with LUKS, as the format of a backing image.
var volumeFormats = []string{"raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhd", "ploop", "bochs", "cloop", "dmg", "iso", "dir", "fat", "cow"}

func volumeFormat(e *element) (string, error) {
	name := e.attr("type")
	allowed := volumeFormats
	if strings.HasSuffix(e.path, "backingStore/format") {
		allowed = append([]string{"luks"}, allowed...)
	}
	switch {
	case name == "":
		return "", e.invalid("type", "is missing: use type='raw' or type='qcow2'")
	case name == "luks" && !slices.Contains(allowed, name):
		return "", e.invalid("type", "unknown volume format type %q: a LUKS volume has the format raw, and <encryption format='luks'>", name)
	case !slices.Contains(allowed, name):
		return "", e.invalid("type", "unknown volume format type %q: use raw or qcow2", message.Shorten(name))
	}
	return name, nil
}

var compatVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

func parseTarget(v *storagevol.Volume, e *element) (err error) {
	if e == nil {
		return nil
	}
	if p := e.child("path"); p != nil {
		v.Path = p.text
	}
	if f := e.child("format"); f != nil {
		if v.Format, err = volumeFormat(f); err != nil {
			return err
		}
	}
	if c := e.child("compat"); c != nil {
		if !compatVersion.MatchString(c.text) {
			return c.invalid("", "forbidden characters in 'compat' attribute %q: use 1.1 or 0.10", message.Shorten(c.text))
		}
		v.Compat = c.text
	}
	if c := e.child("clusterSize"); c != nil {
		if v.ClusterSize, err = parseSize(c); err != nil {
			return err
		}
	}
	if f := e.child("features"); f != nil {
		v.Features = storagevol.Features{Given: true, LazyRefcounts: f.child("lazy_refcounts") != nil, ExtendedL2: f.child("extended_l2") != nil}
	}
	v.NoCOW = e.child("nocow") != nil
	if v.Permissions, err = parsePermissions(e.child("permissions")); err != nil {
		return err
	}
	if c := e.child("encryption"); c != nil {
		v.Encryption, err = parseVolumeEncryption(c)
	}
	return err
}

func parsePermissions(e *element) (p storagevol.Permissions, err error) {
	if e == nil {
		return p, nil
	}
	if p.Owner, err = parseID(e.child("owner")); err != nil {
		return p, err
	}
	if p.Group, err = parseID(e.child("group")); err != nil {
		return p, err
	}
	if m := e.child("mode"); m != nil {
		mode, err := strconv.ParseUint(m.text, 8, 12)
		if err != nil || mode > 0o777 {
			return p, m.invalid("", "malformed octal mode %q: give it like 0600", message.Shorten(m.text))
		}
		bits := uint32(mode)
		p.Mode = &bits
	}
	if l := e.child("label"); l != nil {
		p.Label = l.text
	}
	return p, nil
}

// parseID reads the number of a user or group; -1 is libvirt's notation for none.
func parseID(e *element) (*int, error) {
	if e == nil || e.text == "-1" {
		return nil, nil
	}
	n, err := strconv.ParseUint(e.text, 10, 31)
	if err != nil {
		return nil, e.invalid("", "malformed %s element %q: give the number of a user or group", e.name, message.Shorten(e.text))
	}
	id := int(n)
	return &id, nil
}

// parseVolumeEncryption reads the <encryption> of a volume that is to be made.
func parseVolumeEncryption(e *element) (*storagevol.Encryption, error) {
	out := &storagevol.Encryption{Format: e.attr("format")}
	if err := checkVolumeFormat(e, out.Format); err != nil {
		return nil, err
	}
	if engine := e.attr("engine"); engine != "" && engine != string(blockgraph.EngineQEMU) {
		return nil, e.invalid("engine", "%q does not make volumes: remove it, or use engine='qemu'", message.Shorten(engine))
	}
	for _, s := range e.children {
		if s.name != "secret" {
			continue
		}
		if out.Secret != (secrets.Reference{}) {
			return nil, s.invalid("", "too many secrets for luks encryption: keep one")
		}
		ref, err := parseSecret(s)
		if err != nil {
			return nil, err
		}
		if ref.Type != secrets.Passphrase {
			return nil, s.invalid("type", "unknown volume encryption secret type %q: use type='passphrase'", message.Shorten(string(ref.Type)))
		}
		out.Secret = ref
	}
	if out.Format == storagevol.EncryptionDefault && out.Secret != (secrets.Reference{}) {
		return nil, e.invalid("format", "secrets already defined: format='default' leaves the key to the program that makes the volume; use format='luks' with this <secret>, or remove the <secret>")
	}
	if err := parseCipher(e, out); err != nil {
		return nil, err
	}
	h := e.child("header")
	if h == nil {
		return out, nil
	}
	if h.attr("recover") != "" {
		return nil, h.invalid("recover", "is for a volume that exists, and this one is to be made")
	}
	var err error
	out.Header, err = parseStored(h)
	return out, err
}

// checkVolumeFormat refuses the formats of <encryption> in which no volume is made.
func checkVolumeFormat(e *element, format string) error {
	switch format {
	case storagevol.EncryptionLUKS, storagevol.EncryptionDefault:
		return nil
	case "":
		return e.invalid("format", "unknown volume encryption format: it is missing, use format='luks'")
	case "qcow":
		return e.invalid("format", "unsupported volume encryption format 'qcow', the old encryption of qcow2 images, which no QEMU makes any more: use format='luks'; for an image that has it, `%s`", qemuimg.ConvertOld("OLD"))
	case "luks2", "luks-any":
		return e.invalid("format", "unsupported volume encryption format %q: libvirt has it for Ceph's images only, and makes no volume with it: use format='luks'", format)
	}
	return e.invalid("format", "unknown volume encryption format type %q: use format='luks'", message.Shorten(format))
}

func parseCipher(e *element, out *storagevol.Encryption) error {
	cipher, ivgen := e.child("cipher"), e.child("ivgen")
	if cipher == nil {
		if ivgen != nil {
			return ivgen.invalid("", "ivgen element found, but cipher is missing: add <cipher name='aes' size='256' mode='xts' hash='sha256'/>, or remove it")
		}
		return nil
	}
	if out.Format == storagevol.EncryptionDefault {
		return cipher.invalid("", "does not go with format='default', which leaves the encryption to the program that makes the volume: use format='luks'")
	}
	if cipher.attr("name") == "" {
		return cipher.invalid("name", "cipher info missing 'name' attribute, such as aes")
	}
	if cipher.attr("size") == "" {
		return cipher.invalid("size", "cipher info missing 'size' attribute, in bits, such as 256")
	}
	size, err := strconv.ParseUint(cipher.attr("size"), 10, 16)
	if err != nil || size == 0 || size%8 != 0 {
		return cipher.invalid("size", "%q is no length of a key in bits, such as 256", message.Shorten(cipher.attr("size")))
	}
	out.Cipher = &storagevol.Cipher{Name: cipher.attr("name"), Size: uint(size), Mode: cipher.attr("mode"), Hash: cipher.attr("hash")}
	if ivgen == nil {
		return nil
	}
	if ivgen.attr("name") == "" {
		return ivgen.invalid("name", "missing ivgen info name string, such as plain64")
	}
	out.IVGen = &storagevol.IVGen{Name: ivgen.attr("name"), Hash: ivgen.attr("hash")}
	return nil
}

// ParseNewDisk reads a <disk> whose image is to be made: as [ParseDisk], but its <encryption> may have the <cipher> and
// <ivgen> of the new volume, which are returned as that of the second result; nil for an image without encryption.
func ParseNewDisk(data []byte) (*blockgraph.Disk, *storagevol.Encryption, error) {
	tree, read, err := readTree(data)
	if err != nil {
		return nil, nil, err
	}
	e := tree.find("disk/source/encryption")
	if e == nil {
		e = tree.find("disk/encryption")
	}
	var made *storagevol.Encryption
	if e != nil {
		made = &storagevol.Encryption{Format: e.attr("format")}
		if err := parseCipher(e, made); err != nil {
			return nil, nil, err
		}
		e.children = slices.DeleteFunc(e.children, func(c *element) bool {
			return (c.name == "cipher" || c.name == "ivgen") && encryptionRule().children[c.name].check(c, nil) == nil
		})
	}
	disk, err := parseDiskTree(tree, read, nil)
	return disk, made, err
}
