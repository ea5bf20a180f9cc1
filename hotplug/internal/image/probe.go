package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Format is the format of an image by its magic: the name of QEMU's block driver.
type Format string

// The formats of disks. [Probe] also recognises formats that disks cannot have: qcow, qed,
// vmdk, vdi, vhdx and vpc.
const (
	Raw   Format = "raw" // no known magic
	Qcow2 Format = "qcow2"
	LUKS  Format = "luks"
	// Reencryption is a LUKS1 volume whose re-encryption was interrupted: no driver opens it.
	Reencryption Format = "luks in re-encryption"
	// CephClone is a clone of Ceph's that its library encrypts: a LUKS volume with a magic of
	// its own (Ceph: src/librbd/crypto/luks), because the parent has another key.
	CephClone Format = "luks of a Ceph clone"
	// Incomplete is a LUKS volume that is marked as one that is being filled, see
	// luks.ErrIncomplete: no driver opens it.
	Incomplete Format = "half-filled luks"
)

// Encrypted reports whether the format is one of a LUKS volume.
func (f Format) Encrypted() bool {
	return f == LUKS || f == Reencryption || f == CephClone || f == Incomplete
}

var magics = []struct {
	offset int
	magic  string
	format Format
}{
	{0, "QFI\xfb\x00\x00\x00\x01", "qcow"},
	{0, "QFI\xfb", Qcow2},
	{0, "LUKS\xba\xbe", LUKS},
	{0, "LUKS\xde\xad", Reencryption},
	{0, "RBDL\xba\xbe", CephClone},
	{0, "PLUK\xba\xbe", Incomplete},
	{0, "QED\x00", "qed"},
	{0, "KDMV", "vmdk"},
	{0, "# Disk DescriptorFile", "vmdk"},
	{0, "vhdxfile", "vhdx"},
	{0, "conectix", "vpc"},
	{64, "\x7f\x10\xda\xbe", "vdi"},
}

// probeLen is how many bytes the magics need.
const probeLen = 72

// Info is what [Probe] found.
type Info struct {
	Path   string
	Format Format
	Size   int64 // of the file or block device in bytes, not of the guest's disk
	Block  bool  // true for a block device

	LUKS  *luks.Header // if Format is LUKS, and of [ProbeIncomplete] also if it is Incomplete
	Qcow2 *Qcow2Header // if Format is Qcow2
	// Marked is true if [AttributeIncomplete] marks the image as one that lacks data: only of [ProbeIncomplete].
	Marked bool
}

// Inspect returns the kind and the size of an image, and reads nothing: a guest can write
// any magic to the beginning of a raw disk. Errors wrap fs.ErrNotExist, fs.ErrPermission,
// [ErrNotImage], or luks.ErrIncomplete for one with [AttributeIncomplete], and name the path.
func Inspect(path string) (*Info, error) {
	f, stat, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f)
	if err := checkComplete(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	info := &Info{Path: path, Block: isBlock(stat.Mode())}
	if info.Size, err = size(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// FormatOf returns the format of an image by its first bytes.
func FormatOf(start []byte) Format { return format(start) }

// Probe opens the image read-only and reads its format. The caller decides whether that is
// acceptable: a guest can write any magic to the beginning of a raw disk.
//
// Errors wrap fs.ErrNotExist, fs.ErrPermission or [ErrNotImage], and, if a LUKS or qcow2
// header cannot be read, luks.ErrDamaged, luks.ErrUnsupported, luks.ErrIncomplete, [ErrDamaged] or
// [ErrUnsupported]. All name the path.
func Probe(path string) (*Info, error) {
	info, err := probe(path, luks.ReadHeader)
	if err == nil && info.Marked {
		return nil, fmt.Errorf("%s: %w", path, errIncomplete)
	}
	return info, err
}

// ProbeIncomplete is [Probe] for an image whose volume may be incomplete: it reads a LUKS header with or without
// the mark, and an image with or without [AttributeIncomplete].
func ProbeIncomplete(path string) (*Info, error) { return probe(path, luks.ReadIncomplete) }

// reading reads a LUKS header.
type reading func(io.ReaderAt) (*luks.Header, error)

func probe(path string, read reading) (*Info, error) {
	f, stat, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f)
	info := &Info{Path: path, Block: isBlock(stat.Mode())}
	if err := info.fill(f, read); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, info.Marked, err = AttributeIncomplete.of(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

func (i *Info) fill(f *os.File, read reading) error {
	var err error
	if i.Size, err = size(f); err != nil {
		return err
	}
	start, err := readUpTo(f, 0, probeLen)
	if err != nil {
		return err
	}
	i.Format = format(start)
	switch i.Format {
	case LUKS, Incomplete:
		i.LUKS, err = read(f)
	case Qcow2:
		i.Qcow2, err = readQcow2(f, read)
	}
	return err
}

func format(start []byte) Format {
	for _, m := range magics {
		if len(start) > m.offset && bytes.HasPrefix(start[m.offset:], []byte(m.magic)) {
			return m.format
		}
	}
	return Raw
}

// readUpTo returns n bytes at off, fewer only at the end of r.
func readUpTo(r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := r.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read at offset %d: %w", off, err)
	}
	return b[:n], nil
}
