package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/luksplug/luksplug/secrets/luks"
)

// Format is the format of an image, by its magic, in the name that QEMU's block
// driver for it has.
type Format string

// The formats that disks may have here. [Probe] knows the magics of some more, to
// tell when a disk is not what its XML says: qcow, qed, vmdk, vdi, vhdx, vpc.
const (
	Raw   Format = "raw" // no known magic
	Qcow2 Format = "qcow2"
	LUKS  Format = "luks"
)

var magics = []struct {
	offset int
	magic  string
	format Format
}{
	{0, "QFI\xfb\x00\x00\x00\x01", "qcow"},
	{0, "QFI\xfb", Qcow2},
	{0, "LUKS\xba\xbe", LUKS},
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
	Size   int64 // bytes of the file or block device, not of what the guest sees
	Block  bool  // it is a block device

	LUKS  *luks.Header // where Format is LUKS
	Qcow2 *Qcow2Header // where Format is Qcow2
}

// Probe opens the image read-only and says what it is. It trusts a magic no further
// than to name it: a guest can write any magic at the beginning of a raw disk, so
// whether the answer is acceptable is for the caller to say.
//
// Errors wrap fs.ErrNotExist, fs.ErrPermission, [ErrNotImage], and, for a LUKS or
// qcow2 magic before something that cannot be read as such, luks.ErrDamaged,
// luks.ErrUnsupported, [ErrDamaged] or [ErrUnsupported]. All name the path.
func Probe(path string) (*Info, error) {
	f, stat, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer closeRead(f)
	info := &Info{Path: path, Block: isBlock(stat.Mode())}
	if err := info.fill(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

func (i *Info) fill(f *os.File) error {
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
	case LUKS:
		i.LUKS, err = luks.ReadHeader(f)
	case Qcow2:
		i.Qcow2, err = readQcow2(f)
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

// readUpTo returns n bytes at off, fewer only where r ends.
func readUpTo(r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := r.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read at offset %d: %w", off, err)
	}
	return b[:n], nil
}
