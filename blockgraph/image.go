package blockgraph

import (
	"cmp"
	"slices"

	"github.com/luksplug/luksplug/secrets"
)

// Image is one layer of a disk: the source of its bytes, their format, how they are
// encrypted, and the layer below.
type Image struct {
	Source     Source
	Format     Format
	Encryption *Encryption
	// Backing is the layer below, <backingStore>. nil where the XML names none:
	// QEMU then opens the one that the image names, unless it is Terminated.
	Backing       *Image
	Terminated    bool   // an empty <backingStore/>: QEMU must not look for a backing file
	DataStore     *Image // <dataStore>, the raw image with the data of a qcow2 image that stores none itself
	MetadataCache uint64 // metadata_cache/max_size in bytes, 0 for QEMU's default
}

// Format is an image format, in libvirt's words.
type Format string

// The image formats.
const (
	FormatRaw   Format = "raw"
	FormatQcow2 Format = "qcow2"
	FormatQcow  Format = "qcow"
	FormatQED   Format = "qed"
	FormatVMDK  Format = "vmdk"
	FormatVDI   Format = "vdi"
	FormatVPC   Format = "vpc"
	FormatVHD   Format = "vhd"
	FormatPloop Format = "ploop"
	FormatBochs Format = "bochs"
	FormatCloop Format = "cloop"
	FormatDMG   Format = "dmg"
	FormatFAT   Format = "fat" // a directory of the host that looks like a FAT disk
)

// formats maps each format to QEMU's driver; backing is true if it can have a backing image.
var formats = map[Format]struct {
	driver  string
	backing bool
}{
	FormatRaw:   {driver: "raw"},
	FormatQcow2: {"qcow2", true},
	FormatQcow:  {"qcow", true},
	FormatQED:   {"qed", true},
	FormatVMDK:  {"vmdk", true},
	FormatVDI:   {driver: "vdi"},
	FormatVPC:   {driver: "vpc"},
	FormatVHD:   {driver: "vhdx"}, // libvirt's word for what QEMU calls VHDX
	FormatPloop: {driver: "parallels"},
	FormatBochs: {driver: "bochs"},
	FormatCloop: {driver: "cloop"},
	FormatDMG:   {driver: "dmg"},
	FormatFAT:   {driver: "raw"}, // over QEMU's vvfat
}

// Valid reports whether f is one of the formats above.
func (f Format) Valid() bool {
	_, ok := formats[f]
	return ok
}

// Encryption is <encryption>.
type Encryption struct {
	Format EncryptionFormat // of the volume; "" is EncryptionLUKS
	Engine Engine           // what decrypts; "" is EngineQEMU
	// Secrets name the passphrases: one, but with librbd up to one for each layer of a
	// cloned image, the top one first.
	Secrets []secrets.Reference
	Header  *Image // contains the LUKS header, nil where the encrypted image itself does
	// Recovery says that Header is a backup of the header in the image.
	Recovery Recovery
}

// Recovery is header@recover: the detached header is a backup of the one in the image,
// which is damaged, and takes its place. See [Disk.Recover].
type Recovery string

// The recoveries. Without one, a payload with the remains of a header is refused.
const (
	NoRecovery        Recovery = ""
	RecoveryReadOnly  Recovery = "read-only"
	RecoveryReadWrite Recovery = "read-write"
)

// EncryptionFormat is encryption@format.
type EncryptionFormat string

// The formats. QEMU's own engine supports LUKS1 only.
const (
	EncryptionLUKS    EncryptionFormat = "luks"
	EncryptionLUKS2   EncryptionFormat = "luks2"
	EncryptionLUKSAny EncryptionFormat = "luks-any"
)

// Engine is encryption@engine.
type Engine string

// The engines.
const (
	EngineQEMU   Engine = "qemu"
	EngineLibRBD Engine = "librbd"
)

// librbd reports whether Ceph's library decrypts the image: QEMU reads it decrypted.
func (e *Encryption) librbd() bool { return e != nil && e.Engine == EngineLibRBD }

func (e *Encryption) format() EncryptionFormat { return cmp.Or(e.Format, EncryptionLUKS) }

// RawLUKS reports whether QEMU's LUKS node decrypts the image: an ephemeral header can
// replace its LUKS header, which is at its start or detached.
func (i *Image) RawLUKS() bool {
	enc := i.Encryption
	return enc != nil && !enc.librbd() && (i.Format == FormatRaw || enc.Header != nil)
}

// LUKSHeader returns the image that a RawLUKS image's header is in: the detached
// one, or the image itself.
func (i *Image) LUKSHeader() *Image {
	if i.Encryption != nil && i.Encryption.Header != nil {
		return i.Encryption.Header
	}
	return i
}

// Layers returns the images of the chain, the top one first. Data stores and
// headers are not among them.
func (d *Disk) Layers() []*Image {
	if d.Empty {
		return nil
	}
	var out []*Image
	for i := &d.Image; i != nil; i = i.Backing {
		out = append(out, i)
	}
	return out
}

// Images returns every image that the disk's XML names: the layers, each with
// its data store and its header after it.
func (d *Disk) Images() []*Image {
	var out []*Image
	for _, i := range d.Layers() {
		out = append(out, i)
		if i.DataStore != nil {
			out = append(out, i.DataStore)
		}
		if i.Encryption != nil && i.Encryption.Header != nil {
			out = append(out, i.Encryption.Header)
		}
	}
	return out
}

// Encrypted reports whether any layer of the disk is encrypted.
func (d *Disk) Encrypted() bool {
	return slices.ContainsFunc(d.Layers(), func(i *Image) bool { return i.Encryption != nil })
}

// Recovery returns how the header of the top layer is recovered.
func (d *Disk) Recovery() Recovery {
	if d.Header() == nil {
		return NoRecovery
	}
	return d.Image.Encryption.Recovery
}

// Recover declares the detached header of the top layer to be a backup of the one in its
// image. By RecoveryReadOnly the image is only read: the disk becomes read-only, unless it
// is transient. [Disk.Validate] checks the result. The error is an [*InvalidError] for a
// disk without a detached header or with another recovery.
func (d *Disk) Recover(r Recovery) error {
	if r == NoRecovery {
		return nil
	}
	const element = "disk/source/encryption/header"
	switch {
	case d.Header() == nil:
		return invalid(element, "is missing: recovery takes it as the backup of the header in the image")
	case d.Recovery() != NoRecovery && d.Recovery() != r:
		return invalid(element+"@recover", "is '"+string(d.Recovery())+"', and recovery is to be "+string(r))
	}
	enc := *d.Image.Encryption
	enc.Recovery = r
	d.Image.Encryption = &enc
	if r == RecoveryReadOnly && !d.Transient {
		d.ReadOnly = true
	}
	return nil
}

// Header returns the detached header of the top layer, nil when it has none.
func (d *Disk) Header() *Image {
	if d.Empty || d.Image.Encryption == nil {
		return nil
	}
	return d.Image.Encryption.Header
}
