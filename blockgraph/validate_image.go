package blockgraph

import (
	"fmt"
	"path"
	"reflect"
	"strconv"
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
		return &UnsupportedError{Element: "disk/backingStore", Reason: fmt.Sprintf("%d layers are more than the %d that have names", n, maxLayers)}
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

// validateLayer checks an image, its data store and its header. element is the
// path of what has the image, source that of its <source>.
func (d *Disk) validateLayer(source, element string, i *Image, top bool) error {
	if err := d.validateImage(source, *i); err != nil {
		return err
	}
	if i.Backing != nil && !formats[i.Format].backing {
		return &UnsupportedError{Element: element + "/backingStore", Reason: "storage format '" + string(i.Format) + "' does not support backing store"}
	}
	if i.Source.Kind == SourceVHostUser && !top {
		return &UnsupportedError{Element: element + "@type", Reason: "a vhostuser source can only be a disk's own: its device takes the place of all block nodes"}
	}
	if i.Source.Slice != nil && d.Device == DeviceLUN {
		return invalid(source+"/slices", "disk device 'lun' doesn't support storage slice")
	}
	if top && i.Source.Reservations != nil && d.Device != DeviceLUN {
		return invalid(source+"/reservations", "<reservations/> allowed only for lun devices")
	}
	if err := d.validateStore(source+"/dataStore", i); err != nil {
		return err
	}
	return d.validateEncryption(source+"/encryption", i)
}

// validateStore checks the data store of an image.
func (d *Disk) validateStore(element string, i *Image) error {
	s := i.DataStore
	switch {
	case s == nil:
		return nil
	case i.Format != FormatQcow2:
		return invalid(element, "<dataStore> feature available only with qcow2 images")
	case s.Format != FormatRaw:
		return invalid(element+"/format@type", "only 'raw' images supported as <dataStore>")
	case s.Source.Slice != nil:
		return invalid(element+"/source/slices", "slices are not supported for <dataStore>")
	case s.Encryption != nil:
		// libvirt makes the secret and then leaves the encryption out.
		return &UnsupportedError{Element: element + "/source/encryption", Reason: "a data store is encrypted by the qcow2 image that it belongs to: move <encryption> there"}
	case s.Backing != nil, s.Terminated, s.DataStore != nil:
		return invalid(element, "a data store has no layers")
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
	switch {
	case enc.Engine != "" && enc.Engine != EngineQEMU:
		return invalid(element+"@engine", "unknown encryption engine "+strconv.Quote(message.Shorten(string(enc.Engine))))
	case enc.format() != EncryptionLUKS:
		return &UnsupportedError{Element: element + "@format", Reason: "'" + message.Shorten(string(enc.Format)) + "' is currently not supported by the qemu encryption engine: use luks"}
	case i.Format != FormatRaw && i.Format != FormatQcow2:
		return &UnsupportedError{Element: element, Reason: "encryption is supported only with 'raw' and 'qcow2' image format"}
	}
	return d.validateHeader(element, i)
}

// validateSecrets checks the passphrases.
func (e *Encryption) validateSecrets(element string) error {
	if len(e.Secrets) == 0 {
		// libvirt leaves the encryption out then.
		return invalid(element, "has no <secret>: encryption needs a passphrase")
	}
	if len(e.Secrets) > 1 && !e.librbd() {
		return invalid(element, fmt.Sprintf("qemu encryption engine expects only a single secret: it has %d", len(e.Secrets)))
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

// validateLibRBD checks what only Ceph's library can decrypt. libvirt 11.3 drops
// the encryption of another server's image without a word.
func (i *Image) validateLibRBD(element string) error {
	_, rbd := i.Source.Network.(*RBD)
	switch f := i.Encryption.format(); {
	case !rbd || i.Source.Kind != SourceNetwork:
		return invalid(element+"@engine", "librbd encryption is supported only with RBD backed disks: use engine='qemu'")
	case f != EncryptionLUKS && f != EncryptionLUKS2 && f != EncryptionLUKSAny:
		return invalid(element+"@format", "unknown volume encryption format type "+strconv.Quote(message.Shorten(string(f))))
	case i.Encryption.Header != nil:
		return &UnsupportedError{Element: element + "/header", Reason: "Ceph's library reads the header in the image only: use engine='qemu' for a detached one"}
	}
	return nil
}

// validateHeader checks a detached header.
func (d *Disk) validateHeader(element string, i *Image) error {
	h := i.Encryption.Header
	if h == nil {
		return nil
	}
	if err := d.validateImage(element+"/header/source", *h); err != nil {
		return err
	}
	refuse := func(part, reason string) error {
		return &UnsupportedError{Element: element + "/header" + part, Reason: reason}
	}
	switch {
	case h.Encryption != nil:
		return refuse("/source/encryption", "a header that is encrypted itself is not supported")
	case h.Format != FormatRaw && h.Format != FormatQcow2:
		return refuse("/format@type", "the format "+string(h.Format)+" is not supported for a header: use raw or qcow2")
	case h.DataStore != nil || h.Backing != nil:
		return refuse("", "a header with layers of its own is not supported")
	case h.Source.Kind == SourceVHostUser || h.Source.Kind == SourceDir:
		return refuse("@type", "a header cannot be on a source of the type "+string(h.Source.Kind))
	}
	if sameBytes(h.Source, i.Source) {
		return invalid(element+"/header/source", "the header and the payload are the same file: leave <header> out where the header is part of the image")
	}
	return nil
}

// sameBytes reports whether two sources are the same by what they say.
func sameBytes(a, b Source) bool {
	a.Path, b.Path = path.Clean(a.Path), path.Clean(b.Path)
	if a.Local() && b.Local() {
		return a.Path == b.Path
	}
	return reflect.DeepEqual(a, b)
}

// validateChain refuses two layers that are the same image, and a header that
// serves two of them: both would have the same key.
func (d *Disk) validateChain() error {
	images := d.Images()
	for i, a := range images {
		for _, b := range images[:i] {
			if sameBytes(a.Source, b.Source) {
				return invalid("disk/source", fmt.Sprintf("%s is named twice: an image cannot stand in two places of one disk", a.Source))
			}
		}
	}
	// To turn it off is nothing to ask of an image, whichever it is.
	if d.DiscardNoUnref == On && d.Image.Format != FormatQcow2 {
		return invalid("disk/driver@discard_no_unref", "'discard_no_unref' only works with qcow2 disk format")
	}
	return nil
}

// validateVHost refuses what a disk cannot have whose bytes QEMU never sees, or
// sees in one way only.
func (d *Disk) validateVHost() error {
	switch d.Image.Source.Kind {
	case SourceVHostVDPA:
		if mode := cacheModes[d.cacheMode()]; !mode.direct {
			return invalid("disk/driver@cache", "a vhostvdpa disk takes no cache: use cache='none'")
		}
		return nil
	case SourceVHostUser:
	default:
		return nil
	}
	if d.Bus != BusVirtio {
		return invalid("disk/target@bus", "vhostuser disk supports only virtio bus")
	}
	v := d.Driver
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
	if !i.Format.Valid() {
		return &UnsupportedError{Element: element, Reason: "the image format " + strconv.Quote(message.Shorten(string(i.Format))) + " is not supported: use raw or qcow2"}
	}
	if i.MetadataCache != 0 && i.Format != FormatQcow2 {
		return invalid(element, "metadata cache max size control is supported only with qcow2 images")
	}
	if s := i.Source.Slice; s != nil && (s.Size == 0 || s.Offset > 1<<62 || s.Size > 1<<62) {
		return invalid(element+"/slices/slice", "holds no bytes: give an offset and a size")
	}
	if err := d.validateDir(element, i); err != nil {
		return err
	}
	return i.Source.validate(element)
}

// validateDir checks that a directory is used as one, and nothing else is.
func (d *Disk) validateDir(element string, i Image) error {
	dir := i.Source.Kind == SourceDir
	switch {
	case i.Format == FormatFAT && !dir && i.Source.Kind != SourceVolume:
		return invalid(element, "storage format 'fat' is supported only with 'dir' storage type")
	case dir && i.Format != FormatFAT:
		return invalid(element, "storage type 'dir' requires use of storage format 'fat'")
	case dir && !d.ReadOnly && i.Source == d.Image.Source:
		return &UnsupportedError{Element: element, Reason: "virtual FAT storage can't be accessed in read-write mode: add <readonly/>"}
	}
	return nil
}

// validate checks that the source says all that its kind needs.
func (s Source) validate(element string) error {
	switch s.Kind {
	case SourceFile, SourceBlock, SourceDir, SourceVHostUser, SourceVHostVDPA:
		return validatePath(element, s.Path)
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
	return &UnsupportedError{Element: element, Reason: "the source of type \"" + message.Shorten(string(s.Kind)) + "\" says nothing of where it is"}
}

func validatePath(element, p string) error {
	switch {
	case !path.IsAbs(p):
		return invalid(element, "the path "+strconv.Quote(message.Shorten(p))+" is not absolute")
	case strings.ContainsRune(p, 0):
		return invalid(element, "the path holds a NUL character")
	case !utf8.ValidString(p):
		return invalid(element, "the path is not UTF-8, and a QMP command must be: rename the file")
	}
	return nil
}

// validateTransient checks that a disk can be transient: by libvirt's rules, and
// one more, about <shareable/>.
func (d *Disk) validateTransient() error {
	refuse := func(reason string) error { return &UnsupportedError{Element: "disk/transient", Reason: reason} }
	kind := d.Image.Source.Kind
	switch {
	case !d.Transient:
	case d.Device != DeviceDisk:
		return refuse("a " + string(d.Device) + " cannot be transient: only device='disk' can")
	case kind != SourceFile && kind != SourceVolume: // of a volume it is not known yet what it is
		return refuse("a transient disk is supported only with type='file': its overlay is a file beside the image, and there is no such place for type='" + string(kind) + "'")
	case d.ReadOnly:
		return refuse("a transient disk must not be <readonly/>: nothing would be written that could be lost")
	case d.Shareable:
		return refuse("a transient disk must not be <shareable/>: what the guest writes is in an overlay of its own, and nobody else sees it")
	}
	return nil
}
