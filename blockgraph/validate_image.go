package blockgraph

import (
	"fmt"
	"path"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/secrets"
)

// validateImages checks every image of the disk.
func (d *Disk) validateImages() error {
	if d.Empty {
		return nil
	}
	if n := len(d.Layers()); n > maxLayers {
		return unsupported("disk/backingStore", fmt.Sprintf("%d layers are more than the supported %d", n, maxLayers))
	}
	element, source := "disk", "disk/source"
	for i, image := range d.Layers() {
		if err := d.validateLayer(source, element, image, i == 0); err != nil {
			return err
		}
		element += "/backingStore"
		source = element + "/source"
	}
	if err := d.validateVHost(); err != nil {
		return err
	}
	return d.validateChain()
}

// validateLayer checks an image, its data store and its header. element is the path of
// the image's element, source that of its <source>.
func (d *Disk) validateLayer(source, element string, i *Image, top bool) error {
	if err := d.validateImage(source, *i); err != nil {
		return err
	}
	if err := check([]rule{
		{i.Backing != nil && !formats[i.Format].backing, unsupported, element + "/backingStore",
			"storage format '" + string(i.Format) + "' does not support backing store"},
		{i.Source.Kind == SourceVHostUser && !top, unsupported, element + "@type",
			"a vhostuser source is only supported for the disk itself: its device takes the place of all block nodes"},
		{i.Source.Slice != nil && d.Device == DeviceLUN, invalid, source + "/slices", "disk device 'lun' doesn't support storage slice"},
		{top && i.Source.Reservations != nil && d.Device != DeviceLUN, invalid, source + "/reservations", "<reservations/> allowed only for lun devices"},
	}); err != nil {
		return err
	}
	if err := d.validateStore(source+"/dataStore", i); err != nil {
		return err
	}
	return d.validateEncryption(source+"/encryption", i)
}

// validateStore checks the data store of an image. An encrypted one is refused because
// libvirt creates its secret but omits the encryption.
func (d *Disk) validateStore(element string, i *Image) error {
	s := i.DataStore
	if s == nil {
		return nil
	}
	if err := check([]rule{
		{i.Format != FormatQcow2, invalid, element, "<dataStore> feature available only with qcow2 images"},
		{s.Format != FormatRaw, invalid, element + "/format@type", "only 'raw' images supported as <dataStore>"},
		{s.Source.Slice != nil, invalid, element + "/source/slices", "slices are not supported for <dataStore>"},
		{s.Encryption != nil, unsupported, element + "/source/encryption", "a data store is encrypted by the qcow2 image that it belongs to: move <encryption> there"},
		{s.Backing != nil || s.Terminated || s.DataStore != nil, invalid, element, "a data store has no layers"},
	}); err != nil {
		return err
	}
	return d.validateImage(element+"/source", *s)
}

// validateEncryption checks how an image is encrypted.
func (d *Disk) validateEncryption(element string, i *Image) error {
	enc := i.Encryption
	if enc == nil {
		return nil
	}
	if i.Source.Kind == SourceVHostUser {
		return invalid(element, "encryption is not supported with vhostuser disk")
	}
	if err := enc.validateSecrets(element); err != nil {
		return err
	}
	if enc.librbd() {
		return i.validateLibRBD(element)
	}
	if enc.Recovery != NoRecovery && enc.Header == nil {
		return invalid(element+"/header", "is missing: recovery takes it as the backup of the header in the image")
	}
	if err := check([]rule{
		{enc.Engine != "" && enc.Engine != EngineQEMU, invalid, element + "@engine", "unknown encryption engine " + quoted(enc.Engine)},
		{enc.format() != EncryptionLUKS, unsupported, element + "@format",
			"'" + message.Shorten(string(enc.Format)) + "' is currently not supported by the qemu encryption engine: use format='luks', for LUKS1 and LUKS2"},
		{i.Format != FormatRaw && i.Format != FormatQcow2, unsupported, element, "encryption is supported only with 'raw' and 'qcow2' image format"},
	}); err != nil || enc.Header == nil {
		return err
	}
	if err := d.validateRecovery(element+"/header@recover", i); err != nil {
		return err
	}
	return d.validateHeader(element, i)
}

// validateRecovery checks that a disk whose header is recovered is only written to where
// that is asked for.
func (d *Disk) validateRecovery(element string, i *Image) error {
	top, r := i == &d.Image, i.Encryption.Recovery
	return check([]rule{
		{r != NoRecovery && r != RecoveryReadOnly && r != RecoveryReadWrite, invalid, element, "unknown value " + quoted(r) + ": use read-only or read-write"},
		{r == RecoveryReadWrite && !top, invalid, element, "is 'read-write', and the layers below are only read: use read-only"},
		{r == RecoveryReadWrite && d.ReadOnly, invalid, element, "is 'read-write', and the disk is <readonly/>: keep one of the two"},
		{r == RecoveryReadOnly && top && !d.ReadOnly && !d.Transient, invalid, element, "is 'read-only', and the disk is not: add <readonly/>"},
	})
}

// validateSecrets checks the passphrases. Without one, libvirt omits the encryption.
func (e *Encryption) validateSecrets(element string) error {
	if err := check([]rule{
		{len(e.Secrets) == 0, invalid, element, "has no <secret>: encryption needs a passphrase"},
		{len(e.Secrets) > 1 && !e.librbd(), invalid, element, fmt.Sprintf("qemu encryption engine expects only a single secret: it has %d", len(e.Secrets))},
	}); err != nil {
		return err
	}
	for _, ref := range e.Secrets {
		if ref.Type != secrets.Passphrase {
			return invalid(element+"/secret@type", "an encrypted disk needs a secret of the type passphrase")
		}
		if err := ref.Validate(); err != nil {
			return invalid(element+"/secret", err.Error())
		}
	}
	return nil
}

// validateLibRBD checks what only Ceph's library can decrypt. libvirt 11.3 silently
// drops the encryption of an image on another kind of server.
func (i *Image) validateLibRBD(element string) error {
	_, rbd := i.Source.Network.(*RBD)
	f := i.Encryption.format()
	return check([]rule{
		{!rbd || i.Source.Kind != SourceNetwork, invalid, element + "@engine", "librbd encryption is supported only with RBD backed disks: use engine='qemu'"},
		{f != EncryptionLUKS && f != EncryptionLUKS2 && f != EncryptionLUKSAny, invalid, element + "@format",
			"unknown volume encryption format type " + quoted(f)},
		{i.Encryption.Header != nil, unsupported, element + "/header", "Ceph's library reads the header in the image only: use engine='qemu' for a detached one"},
	})
}

// validateHeader checks a detached header.
func (d *Disk) validateHeader(element string, i *Image) error {
	h, element := i.Encryption.Header, element+"/header"
	if err := d.validateImage(element+"/source", *h); err != nil {
		return err
	}
	kind := h.Source.Kind
	return check([]rule{
		{h.Encryption != nil, unsupported, element + "/source/encryption", "a header that is encrypted itself is not supported"},
		{h.Format != FormatRaw && h.Format != FormatQcow2, unsupported, element + "/format@type",
			"the format " + string(h.Format) + " is not supported for a header: use raw or qcow2"},
		{h.DataStore != nil || h.Backing != nil, unsupported, element, "a header with layers of its own is not supported"},
		{kind == SourceVHostUser || kind == SourceDir, unsupported, element + "@type", "a header cannot be on a source of the type " + string(kind)},
		{sameBytes(h.Source, i.Source), invalid, element + "/source",
			"the header and the payload are the same file: leave <header> out where the header is part of the image"},
	})
}

// sameBytes reports whether two sources have equal values or the same path.
func sameBytes(a, b Source) bool {
	a.Path, b.Path = path.Clean(a.Path), path.Clean(b.Path)
	if a.Local() && b.Local() {
		return a.Path == b.Path
	}
	return reflect.DeepEqual(a, b)
}

// validateChain refuses two layers that are the same image, and a header that
// serves two layers: both would have the same key.
func (d *Disk) validateChain() error {
	images := d.Images()
	for i, a := range images {
		for _, b := range images[:i] {
			if sameBytes(a.Source, b.Source) {
				return invalid("disk/source", fmt.Sprintf("%s is named twice: a disk can use an image only once", a.Source))
			}
		}
	}
	// discard_no_unref='off' is allowed for any format.
	return check([]rule{{d.DiscardNoUnref == On && d.Image.Format != FormatQcow2, invalid, "disk/driver@discard_no_unref",
		"'discard_no_unref' only works with qcow2 disk format"}})
}

// validateVHost refuses settings that QEMU cannot apply because it does not process the
// data (vhostuser), or only supports in one form (vhostvdpa).
func (d *Disk) validateVHost() error {
	v, kind := d.Driver, d.Image.Source.Kind
	if kind == SourceVHostVDPA && !cacheModes[d.cacheMode()].direct {
		return invalid("disk/driver@cache", "a vhostvdpa disk takes no cache: use cache='none'")
	}
	if kind != SourceVHostUser {
		return nil
	}
	if d.Bus != BusVirtio {
		return invalid("disk/target@bus", "vhostuser disk supports only virtio bus")
	}
	for _, p := range []struct {
		element string
		given   bool
	}{
		{"source/slices", d.Image.Source.Slice != nil}, {"source/dataStore", d.Image.DataStore != nil},
		{"backingStore", d.Image.Backing != nil || d.Image.Terminated},
		{"driver@cache", v.Cache != ""}, {"driver@io", v.IO != ""}, {"driver@discard", v.Discard != ""}, {"driver@detect_zeroes", v.DetectZeroes != ""},
		{"driver@copy_on_read", d.CopyOnRead}, {"driver@ioeventfd", v.IOEventFD != ""}, {"driver@error_policy", v.ErrorPolicy != ""}, {"driver@rerror_policy", v.ReadErrorPolicy != ""},
		{"driver@iothread", v.IOThread != 0}, {"driver/iothreads", len(v.IOThreads) > 0}, {"driver@type", d.Image.Format != FormatRaw},
		{"readonly", d.ReadOnly}, {"shareable", d.Shareable}, {"serial", d.Serial != ""}, {"wwn", d.WWN != 0},
		{"iotune", d.IOTune != nil}, {"throttlefilters", len(d.ThrottleFilters) > 0},
		{"blockio", d.Tuning.BlockIO != BlockIO{}}, {"geometry", d.Tuning.Geometry != Geometry{}},
	} {
		if p.given {
			name := p.element[strings.LastIndexAny(p.element, "/@")+1:]
			return invalid("disk/"+p.element, name+" is not supported with vhostuser disk")
		}
	}
	return nil
}

// validateImage checks one image by itself.
func (d *Disk) validateImage(element string, i Image) error {
	s, dir := i.Source.Slice, i.Source.Kind == SourceDir
	if err := check([]rule{
		{!i.Format.Valid(), unsupported, element, "the image format " + quoted(i.Format) + " is not supported: use raw or qcow2"},
		{i.MetadataCache != 0 && i.Format != FormatQcow2, invalid, element, "metadata cache max size control is supported only with qcow2 images"},
		{s != nil && (s.Size == 0 || s.Offset > 1<<62 || s.Size > 1<<62), invalid, element + "/slices/slice", "contains no bytes: give an offset and a size"},
		{i.Format == FormatFAT && !dir && i.Source.Kind != SourceVolume, invalid, element, "storage format 'fat' is supported only with 'dir' storage type"},
		{dir && i.Format != FormatFAT, invalid, element, "storage type 'dir' requires use of storage format 'fat'"},
		{dir && !d.ReadOnly && i.Source == d.Image.Source, unsupported, element,
			"virtual FAT storage can't be accessed in read-write mode: add <readonly/>"},
	}); err != nil {
		return err
	}
	return i.Source.validate(element)
}

// validate checks that the source names everything that its kind needs.
func (s Source) validate(element string) error {
	switch s.Kind {
	case SourceFile, SourceBlock, SourceDir, SourceVHostUser, SourceVHostVDPA:
		return check([]rule{
			{!path.IsAbs(s.Path), invalid, element, "the path " + quoted(s.Path) + " is not absolute"},
			{strings.ContainsRune(s.Path, 0), invalid, element, "the path contains a NUL character"},
			{!utf8.ValidString(s.Path), invalid, element, "the path is not UTF-8, which a QMP command requires: rename the file"},
		})
	case SourceNVMe:
		return s.NVMe.validate(element)
	case SourceNetwork:
		if s.Network != nil {
			return s.Network.validate(element)
		}
	case SourceVolume:
		if s.Volume != nil && s.Volume.Pool != "" && s.Volume.Name != "" {
			return nil
		}
	}
	return unsupported(element, "the source of type \""+message.Shorten(string(s.Kind))+"\" does not name its location")
}

// validateTransient checks that a disk can be transient: by libvirt's rules, and
// one more for <shareable/>. The kind of a volume is not known yet.
func (d *Disk) validateTransient() error {
	if !d.Transient {
		return nil
	}
	const element = "disk/transient"
	kind := d.Image.Source.Kind
	return check([]rule{
		{d.Device != DeviceDisk, unsupported, element, "a " + string(d.Device) + " cannot be transient: only device='disk' can"},
		{kind != SourceFile && kind != SourceVolume, unsupported, element,
			"a transient disk is supported only with type='file': its overlay is a file next to the image, which is not possible for type='" + string(kind) + "'"},
		{d.ReadOnly, unsupported, element, "a transient disk must not be <readonly/>: there are no writes to discard"},
		{d.Shareable, unsupported, element, "a transient disk must not be <shareable/>: what the guest writes is in its own overlay, which other VMs cannot read"},
	})
}
