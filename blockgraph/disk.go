package blockgraph

import "github.com/luksplug/luksplug/secrets"

// Disk is a parsed and validated <disk>: what the user asked for, before it is
// decided how QEMU is told. [ParseDisk] makes one from XML; a program may also
// fill one in and call [Disk.Validate].
type Disk struct {
	// Target is target@dev, such as "vdb": it names the disk, and everything
	// that is made in QEMU for it.
	Target string
	// Bus is where the device goes.
	Bus Bus
	// Device is what the guest sees: a disk, a CD-ROM drive or a floppy drive.
	Device DeviceKind
	// Image is the top layer, the one whose bytes the guest sees.
	Image Image
	// ReadOnly is <readonly/>; a CD-ROM is always read-only.
	ReadOnly bool
	// Serial is <serial>, "" for none.
	Serial string
	// WWN is <wwn>, 0 for none; ide and scsi only.
	WWN uint64
	// BootOrder is boot@order, 1 for the first, 0 for none.
	BootOrder uint
	// Alias is a user alias ("ua-..."), which becomes the device id; "" for none.
	Alias string
	// Driver holds the tuning of <driver>.
	Driver Driver
	// Address is <address>, nil where the planner shall choose.
	Address *Address
}

// Image is one image: where its bytes are, their format, and how they are
// encrypted.
type Image struct {
	Source     Source
	Format     Format
	Encryption *Encryption
	// Terminated is an empty <backingStore/>: the image is known to have no
	// backing file, and QEMU shall not look for one.
	Terminated bool
}

// Format is an image format.
type Format string

// The image formats that are supported.
const (
	FormatRaw   Format = "raw"
	FormatQcow2 Format = "qcow2"
)

// SourceKind is the type attribute of a <disk> or <header>.
type SourceKind string

// The sources that are supported.
const (
	SourceFile  SourceKind = "file"
	SourceBlock SourceKind = "block"
)

// Source is where the bytes of an image come from.
type Source struct {
	Kind SourceKind
	// Path is the absolute path of the file or block device, on the machine
	// that runs QEMU.
	Path string
}

// Encryption is <encryption format='luks'>.
type Encryption struct {
	// Secret names the passphrase.
	Secret secrets.Reference
	// Header is the image that holds the LUKS header, nil where the header
	// is part of the encrypted image itself.
	Header *Image
}

// Secrets returns the references of all secrets that the disk needs, in the
// order in which they are used.
func (d *Disk) Secrets() []secrets.Reference {
	if d.Image.Encryption == nil {
		return nil
	}
	return []secrets.Reference{d.Image.Encryption.Secret}
}

// Header returns the detached header's image, nil when the disk has none.
func (d *Disk) Header() *Image {
	if d.Image.Encryption == nil {
		return nil
	}
	return d.Image.Encryption.Header
}
