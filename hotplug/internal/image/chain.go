package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/luksplug/luksplug/secrets/luks"
)

// Role is what an image needs another file for.
type Role string

// The roles.
const (
	Backing Role = "backing file"
	Data    Role = "data file" // of a qcow2 image that stores no data itself
	Extent  Role = "extents"   // of a vmdk image: any number of files with data
)

// Reference is another file that an image names. QEMU opens it with the image, unless it
// is told otherwise. The image's writer has chosen the name.
type Reference struct {
	Role Role
	// Name is a path, which may be relative to the image's directory, or a name in QEMU's
	// syntax for other protocols; "" if it is not known.
	Name string
	// Format is the name of QEMU's driver, "" if the image does not say.
	Format string
}

// Path returns the local file that the reference names for the image at path; false for
// any other name.
func (r Reference) Path(path string) (string, bool) {
	name, _, _ := strings.Cut(r.Name, "\x00") // as QEMU reads it
	name = strings.TrimPrefix(name, "file:")
	// To QEMU, a colon before any slash makes a protocol of a path.
	if before, _, colon := strings.Cut(name, ":"); name == "" || colon && !strings.Contains(before, "/") {
		return "", false
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(path), name)
	}
	return filepath.Clean(name), true
}

// References returns the files that an image of that format names: the name of QEMU's
// block driver. It reads the image as it is stored. Of formats that QEMU opens without
// other files there are none.
func References(r io.ReaderAt, f Format) ([]Reference, error) {
	switch f {
	case Qcow2:
		h, err := readQcow2(r, luks.ReadHeader)
		if err != nil {
			return nil, err
		}
		return h.References(), nil
	case "qcow":
		return namedAt(r, "QFI\xfb\x00\x00\x00\x01", func(b []byte) (int64, int64) {
			return int64(binary.BigEndian.Uint64(b[8:])), int64(binary.BigEndian.Uint32(b[16:]))
		})
	case "qed":
		return namedAt(r, "QED\x00", func(b []byte) (int64, int64) {
			const hasBacking = 1 << 0
			if binary.LittleEndian.Uint64(b[16:])&hasBacking == 0 {
				return 0, 0
			}
			return int64(binary.LittleEndian.Uint32(b[56:])), int64(binary.LittleEndian.Uint32(b[60:]))
		})
	case "vmdk":
		return vmdkReferences(r)
	}
	return nil, nil
}

// References returns the files that the image names.
func (h *Qcow2Header) References() []Reference {
	var out []Reference
	if h.HasDataFile {
		out = append(out, Reference{Role: Data, Name: h.DataFile, Format: string(Raw)})
	}
	if h.HasBacking && h.BackingFile != "" {
		out = append(out, Reference{Role: Backing, Name: h.BackingFile, Format: h.BackingFormat})
	}
	return out
}

// namedAt returns the backing file whose name is at the place that find finds in the
// header of an image.
func namedAt(r io.ReaderAt, magic string, find func(header []byte) (offset, length int64)) ([]Reference, error) {
	header, err := readUpTo(r, 0, probeLen)
	if err != nil {
		return nil, err
	}
	if len(header) < probeLen || !bytes.HasPrefix(header, []byte(magic)) {
		return nil, fmt.Errorf("%w: it lacks the header of its format", ErrDamaged)
	}
	offset, length := find(header)
	if offset == 0 || length == 0 {
		return nil, nil
	}
	if offset < 0 || length > maxBackingName {
		return nil, fmt.Errorf("%w: a backing file name of %d bytes at offset %d", ErrDamaged, length, offset)
	}
	name, err := readUpTo(r, offset, int(length))
	if err != nil {
		return nil, err
	}
	return []Reference{{Role: Backing, Name: string(name)}}, nil
}

// Places in the header of a vmdk image of version 4 (block/vmdk.c, VMDK4Header).
const (
	vmdkCapacity   = 12
	vmdkDescriptor = 28 // in sectors
	vmdkGrains     = 56
	vmdkText       = 20 // sectors of the descriptor that QEMU reads

	maxDescriptor = 1<<20 - 1 // bytes that QEMU reads of a descriptor that is a file
)

// vmdkReferences returns the files that a vmdk image names. Its descriptor, in which it
// names them, is the file itself or is embedded in it. An image of one file has one
// extent and names itself. QEMU also reads a footer, and this package does not: such an
// image counts as one that names files.
func vmdkReferences(r io.ReaderAt) ([]Reference, error) {
	const sector = 512
	start, err := readUpTo(r, 0, sector)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(start, []byte("# Disk DescriptorFile")) {
		text, err := readUpTo(r, 0, maxDescriptor)
		return append(extents(text), parents(text)...), err
	}
	if !bytes.HasPrefix(start, []byte("KDMV")) || len(start) < sector ||
		binary.LittleEndian.Uint64(start[vmdkCapacity:]) == 0 || binary.LittleEndian.Uint64(start[vmdkGrains:]) == math.MaxUint64 {
		return []Reference{{Role: Extent}}, nil
	}
	offset := binary.LittleEndian.Uint64(start[vmdkDescriptor:])
	if offset > math.MaxInt64/sector/2 {
		return nil, fmt.Errorf("%w: a vmdk descriptor in sector %d", ErrDamaged, offset)
	}
	text, err := readUpTo(r, int64(offset)*sector, vmdkText*sector)
	if err != nil {
		return nil, err
	}
	return parents(text), nil
}

// extent is a line of a descriptor: access, size, kind and name.
var extent = regexp.MustCompile(`(?m)^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+[0-9]+[ \t]+([A-Z]+)[ \t]+"([^"\n]*)"`)

// extents returns the files with the data of an image by its descriptor. There is one
// without a name if the descriptor has none that can be read.
func extents(text []byte) []Reference {
	var out []Reference
	for _, found := range extent.FindAllSubmatch(text, -1) {
		format := "vmdk"
		if kind := string(found[1]); kind == "FLAT" || kind == "VMFS" {
			format = string(Raw)
		}
		out = append(out, Reference{Role: Extent, Name: string(found[2]), Format: format})
	}
	if out == nil {
		out = []Reference{{Role: Extent}}
	}
	return out
}

// parents returns the image below by a descriptor.
func parents(text []byte) []Reference {
	_, hint, found := bytes.Cut(text, []byte("parentFileNameHint"))
	if !found {
		return nil
	}
	name, _, _ := bytes.Cut(bytes.TrimLeft(hint, " =\""), []byte("\""))
	return []Reference{{Role: Backing, Name: string(name), Format: "vmdk"}}
}
