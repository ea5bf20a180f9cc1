package volume

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Request describes a volume to be made.
type Request struct {
	// Path is that of the image, absolute, and Header that of its LUKS header; "" is a header in the image. There must
	// be no file with these names, except for an empty file, or a block device, at Path.
	Path, Header string
	// Format is raw, the default, or qcow2.
	Format blockgraph.Format
	// Size is that of the guest's disk, in bytes, a multiple of 512. 0 is possible for a block device, of which the volume
	// gets all, and with Backing, whose size it then has.
	Size int64
	// Force allows data at Path to be overwritten: that of a file or block device of exactly this size in bytes; 0 is none.
	// It does not allow what is in use.
	Force int64
	// LUKS is the header's format. Its PayloadOffset and Birth are chosen here.
	LUKS luks.Format
	// Incomplete makes a volume that nothing opens until [Complete] is called: its header is marked from the first write on. It
	// is for one that is to be filled with the data of another volume.
	Incomplete bool
	// Backing is the image below a qcow2 image, nil for none.
	Backing *Backing
	// Qcow2 are the options of a qcow2 image.
	Qcow2 Qcow2
	// Preallocation is how much of the image is allocated.
	Preallocation Preallocation
	// NoCOW switches off copy-on-write for the files of the volume, where their file system can.
	NoCOW bool
	// Mode is that of the image and, without access for the group and others, of the header; 0 is 0600.
	Mode fs.FileMode
	// Owner and Group are those of the image and the header, nil for those of a file that was there, or of this process.
	Owner, Group *int
	// Label is the SELinux label of the image and the header, "" for the one that the system chooses.
	Label string
	// Secret is the document of the volume's secret. Its zero UUID is a random one, and a document without usage gets
	// the volume's path as such.
	Secret secrets.Document
	// Existing is the store of a secret that exists, in whose document the birth of the data key is recorded; nil if the
	// store cannot be changed, or the secret is new.
	Existing secrets.Keeper
	// Passphrase is one that a person has chosen, so that it is worth a slow derivation; nil makes a random one. Create
	// does not wipe it.
	Passphrase *secrets.Secret
	// Unlock is how long deriving the key from Passphrase is to take on this host; 0 is two seconds.
	Unlock time.Duration
	// Attached are the disks that are attached on this host, as hotplug.Uses returns them: their images are not overwritten.
	Attached []hotplug.Use
	// Progress is called during a preallocation that takes time.
	Progress Report

	made string // the id of the re-encryption that makes the file, "" for none
}

// Qcow2 are options of a qcow2 image ("qemu-img create", qcow2). The zero value has QEMU's defaults.
type Qcow2 struct {
	Compat        string // "1.1", the default, or "0.10", which QEMU before 1.1 reads
	ClusterSize   int64  // bytes, a power of two from 512 to 2 MiB
	LazyRefcounts bool
	ExtendedL2    bool
}

// Preallocation is how much of a new image is allocated.
type Preallocation string

// The preallocations, in QEMU's words. With all of them but PreallocationOff of a qcow2 image, the guest reads what zeros decrypt
// to until it writes.
const (
	// PreallocationOff is a sparse image, the default.
	PreallocationOff Preallocation = "off"
	// PreallocationMetadata allocates the tables of a qcow2 image.
	PreallocationMetadata Preallocation = "metadata"
	// PreallocationFalloc also reserves room for the data, without writing it.
	PreallocationFalloc Preallocation = "falloc"
	// PreallocationFull also writes it, with zeros.
	PreallocationFull Preallocation = "full"
)

var preallocations = []Preallocation{PreallocationOff, PreallocationMetadata, PreallocationFalloc, PreallocationFull}

// reserves reports whether room for all data is reserved.
func (p Preallocation) reserves() bool { return p == PreallocationFalloc || p == PreallocationFull }

// requestRule is a check of a request: if broken is true, the request is refused for the reason.
type requestRule struct {
	broken bool
	reason string
}

// complete fills in the defaults and checks the request.
func (r Request) complete() (Request, error) {
	r.Format = cmp.Or(r.Format, blockgraph.FormatRaw)
	r.Mode = cmp.Or(r.Mode, defaultMode)
	r.Unlock = cmp.Or(r.Unlock, defaultUnlock)
	r.Preallocation = cmp.Or(r.Preallocation, PreallocationOff)
	if err := r.check(); err != nil {
		return r, err
	}
	if r.Secret.UUID == uuid.Nil {
		r.Secret.UUID = uuid.New()
	}
	if r.Secret.UsageType == secrets.UsageNone {
		r.Secret.UsageType, r.Secret.Usage = secrets.UsageVolume, r.Path
	}
	if err := r.Secret.Validate(); err != nil {
		return r, err
	}
	r.LUKS.UUID = cmp.Or(r.LUKS.UUID, uuid.NewString())
	switch {
	case r.Header != "":
		r.LUKS.PayloadOffset = 0
	case r.Format == blockgraph.FormatQcow2:
		r.LUKS.PayloadOffset = luks.FreshSize // QEMU does not use it
	default:
		r.LUKS.PayloadOffset = r.LUKS.DefaultPayloadOffset()
	}
	if _, err := r.LUKS.HeaderSize(); err != nil {
		return r, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if r.Format == blockgraph.FormatQcow2 && r.Header == "" {
		if err := r.LUKS.QEMUOpens(); err != nil { // nothing else opens a header inside a qcow2 image
			return r, fmt.Errorf("%w inside a qcow2 image: %w", ErrUnsupported, err)
		}
	}
	return r, nil
}

// check refuses a request that contradicts itself.
func (r Request) check() error {
	for _, rule := range slices.Concat(r.rules(), r.optionRules()) {
		if rule.broken {
			return fmt.Errorf("%w: %s", ErrRequest, rule.reason)
		}
	}
	return nil
}

// rules are the checks of layout and size.
func (r Request) rules() []requestRule {
	qcow2 := r.Format == blockgraph.FormatQcow2
	return []requestRule{
		{!filepath.IsAbs(r.Path) || r.Header != "" && !filepath.IsAbs(r.Header), "the paths are not absolute"},
		{filepath.Clean(r.Path) == filepath.Clean(r.Header), fmt.Sprintf("the image and its header have the same path, %s", r.Path)},
		{r.Format != blockgraph.FormatRaw && !qcow2, fmt.Sprintf("the format %s: raw and qcow2 are possible", r.Format)},
		{r.Size < 0 || r.Size%luks.SectorSize != 0, fmt.Sprintf("a disk of %d bytes: the size is a multiple of %d", r.Size, luks.SectorSize)},
		{r.LUKS.Version == 2 && qcow2 && r.Header == "", "a qcow2 image with a LUKS2 header inside: QEMU opens LUKS1 only"},
		{r.Mode&^0o777 != 0 || r.Mode&0o600 != 0o600, fmt.Sprintf("the mode %#o: the owner has to read and write the image", r.Mode)},
		{r.Backing != nil && !qcow2, "a backing image below a raw image: only qcow2 images have one"},
		{r.Backing != nil && r.Header != "", "a backing image below a volume with a header of its own: the guest would read its data decrypted by a key that they are not encrypted with; leave the header in the image"},
	}
}

// optionRules are the checks of options.
func (r Request) optionRules() []requestRule {
	const least, most = 512, 2 << 20
	qcow2, c := r.Format == blockgraph.FormatQcow2, r.Qcow2.ClusterSize
	return []requestRule{
		{r.Qcow2 != (Qcow2{}) && !qcow2, "the options of a qcow2 image, such as its cluster size, for a raw image"},
		{c != 0 && (c < least || c > most || c&(c-1) != 0), fmt.Sprintf("clusters of %d bytes: a power of two from %d to %d is possible", c, least, most)},
		{!slices.Contains([]string{"", "0.10", "1.1"}, r.Qcow2.Compat), fmt.Sprintf("the qcow2 version %q: 1.1 and 0.10 are possible", r.Qcow2.Compat)},
		{r.Qcow2.Compat == "0.10" && (r.Qcow2.LazyRefcounts || r.Qcow2.ExtendedL2), "lazy reference counts and extended L2 entries need the qcow2 version 1.1"},
		{!slices.Contains(preallocations, r.Preallocation), fmt.Sprintf("the preallocation %q: off, metadata, falloc and full are possible", r.Preallocation)},
		{r.Preallocation == PreallocationMetadata && !qcow2, "a preallocation of metadata for a raw image, which has none: falloc reserves its data"},
		{r.Preallocation != PreallocationOff && r.Backing != nil, "a preallocation of an image with a backing image: its data would hide those of the backing image"},
	}
}
