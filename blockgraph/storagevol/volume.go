// Package storagevol describes volumes of libvirt's storage pools, and how libvirt makes them with QEMU's programs.
//
// diskxml.ParseVolume reads a [Volume] from libvirt's <volume> document (formatstorage.html, "Storage volume XML").
// [Volume.XML] writes one. [QemuImg] returns the qemu-img commands of libvirt's storage driver, and [Blockdev] the options
// of blockdev-create that libvirt's QEMU driver sends for a new image of a <disk>.
//
// Nothing in this package does I/O. All functions are safe for concurrent use.
package storagevol

import (
	"path"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// Type is volume@type.
type Type string

// The types of volumes. Only files and block devices hold an encrypted volume.
const (
	TypeFile    Type = "file"
	TypeBlock   Type = "block"
	TypeDir     Type = "dir"
	TypeNetwork Type = "network"
)

// Volume is a <volume>.
type Volume struct {
	Name string
	Type Type // "" where the document does not say
	// Capacity is the size of the guest's disk in bytes; without HasCapacity the document has none, and a volume with a
	// backing image gets that one's size.
	Capacity    uint64
	HasCapacity bool
	// Allocation is how much of it is to be allocated, in bytes; without HasAllocation the document does not say.
	Allocation    uint64
	HasAllocation bool
	// Path is target/path, "" for a name in the directory of a pool.
	Path string
	// Format is target/format@type: one of [blockgraph.Format], or "iso" for an input; "" where the document has none.
	Format      string
	Compat      string // the version of a qcow2 image, "0.10" or "1.1"; "" for the default
	Features    Features
	ClusterSize uint64 // of a qcow2 image, in bytes; 0 for the default
	NoCOW       bool   // no copy-on-write by the file system
	Permissions Permissions
	Encryption  *Encryption
	Backing     *Backing
}

// Features are target/features.
type Features struct {
	// Given is true if the document has the element, also an empty one.
	Given         bool
	LazyRefcounts bool
	ExtendedL2    bool
}

// Permissions are target/permissions. What is nil or "" is left to the defaults.
type Permissions struct {
	Owner, Group *int
	Mode         *uint32
	Label        string // of SELinux
}

// Backing is <backingStore>.
type Backing struct {
	Path   string
	Format string // "" where the document has none
}

// Formats of target/encryption. "qcow" and the others of libvirt are refused.
const (
	// EncryptionDefault leaves format and key to the program that makes the volume.
	EncryptionDefault = "default"
	EncryptionLUKS    = "luks"
)

// Encryption is target/encryption.
type Encryption struct {
	Format string // EncryptionLUKS or EncryptionDefault
	// Secret is the reference to the passphrase, zero for one that is to be made.
	Secret secrets.Reference
	Cipher *Cipher
	IVGen  *IVGen
	// Header is luksplug's <header>, the image of a detached header.
	Header *blockgraph.Image
}

// Cipher is encryption/cipher. Mode and Hash are "" for the defaults, xts and sha256.
type Cipher struct {
	Name string // "aes"
	Size uint   // of the cipher's key in bits. A volume key for xts has two of them
	Mode string
	Hash string
}

// IVGen is encryption/ivgen. Hash only matters to essiv.
type IVGen struct {
	Name string // "plain64"
	Hash string
}

// xts is the mode for which the volume key is two keys of the cipher.
const xts = "xts"

// Name returns the encryption in the notation of LUKS headers and dm-crypt, such as "aes-xts-plain64", and the length of
// the volume key in bytes, as QEMU derives both from libvirt's words (its crypto/block-luks.c): the mode is xts by default,
// ivgen plain64, and the hash of essiv is sha256. Without <cipher> it returns "" and 0.
func (e *Encryption) Name() (name string, keyBytes int) {
	if e.Cipher == nil {
		return "", 0
	}
	mode, iv := or(e.Cipher.Mode, xts), "plain64"
	if e.IVGen != nil {
		iv = e.IVGen.Name
		if iv == "essiv" {
			iv += ":" + or(e.IVGen.Hash, "sha256")
		}
	}
	keyBytes = int(e.Cipher.Size / 8) //nolint:gosec // diskxml bounds the size to 31 bits
	if mode == xts {
		keyBytes *= 2
	}
	return e.Cipher.Name + "-" + mode + "-" + iv, keyBytes
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// block are the types of pools whose volumes are block devices.
var block = map[string]bool{"logical": true, "disk": true, "iscsi": true, "iscsi-direct": true, "scsi": true, "mpath": true, "zfs": true}

// In returns the volume with what it gets from its pool: the path, if the document has none, and the type.
// A nil pool changes nothing.
func (v Volume) In(pool *blockgraph.Pool) Volume {
	if pool == nil {
		return v
	}
	if v.Path == "" && pool.Dir != "" {
		v.Path = path.Join(pool.Dir, v.Name)
	}
	if b := v.Backing; b != nil && pool.Dir != "" && !strings.HasPrefix(b.Path, "/") {
		v.Backing = &Backing{Path: path.Join(pool.Dir, b.Path), Format: b.Format}
	}
	if v.Type == "" && block[pool.Type] {
		v.Type = TypeBlock
	}
	return v
}
