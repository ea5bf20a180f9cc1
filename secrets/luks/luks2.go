package luks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// luks2Size is the length of the binary header, which the JSON area follows
// (LUKS2 On-Disk Format Specification 1.1, section 2.1).
const luks2Size = 4096

// luks2Sizes are the lengths, in bytes, that a binary header with its JSON area
// can have. The second copy follows the first, so they are also the offsets where
// it can be (section 2.2).
var luks2Sizes = [...]int64{0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000}

// LUKS2 is the binary header of a LUKS2 volume: its first copy, unverified. What
// encrypts the payload is in the JSON area, which is not read.
type LUKS2 struct {
	Size       int64  // bytes of one copy, JSON area included
	SequenceID uint64 // counts updates: the copy with the higher one is newer
	Label      string // may be empty
	Subsystem  string // may be empty
	Secondary  bool   // the second copy is where it belongs, by its magic
}

func readLUKS2(r io.ReaderAt) (*Header, error) {
	b, err := read(r, 0, luks2Size)
	if err != nil {
		return nil, err
	}
	if len(b) < luks2Size {
		return nil, fmt.Errorf("%w: it ends after %d bytes, a LUKS2 header has %d or more", ErrDamaged, len(b), luks2Sizes[0])
	}
	size := binary.BigEndian.Uint64(b[8:])
	if !isLUKS2Size(size) {
		return nil, fmt.Errorf("%w: a LUKS2 header cannot have %d bytes", ErrDamaged, size)
	}
	if offset := binary.BigEndian.Uint64(b[256:]); offset != 0 {
		return nil, fmt.Errorf("%w: the first copy of the LUKS2 header says that it is at offset %d", ErrDamaged, offset)
	}
	h := &LUKS2{Size: int64(size), SequenceID: binary.BigEndian.Uint64(b[16:])}
	if h.Label, err = label(b[24:72], "label"); err != nil {
		return nil, err
	}
	if h.Subsystem, err = label(b[208:256], "subsystem"); err != nil {
		return nil, err
	}
	uuid, err := text(b[168:208], "UUID")
	if err != nil {
		return nil, err
	}
	if h.Secondary, err = secondaryAt(r, h.Size); err != nil {
		return nil, err
	}
	return &Header{Version: 2, UUID: uuid, LUKS2: h}, nil
}

func isLUKS2Size(size uint64) bool {
	for _, possible := range luks2Sizes {
		if size == uint64(possible) {
			return true
		}
	}
	return false
}

// label returns a text that a user gave: any characters, so it is for %q.
func label(field []byte, what string) (string, error) {
	value, _, terminated := bytes.Cut(field, []byte{0})
	if !terminated {
		return "", fmt.Errorf("%w: the %s has no end", ErrDamaged, what)
	}
	return string(value), nil
}

// secondaryAt reports whether the second copy of a LUKS2 header is at off.
func secondaryAt(r io.ReaderAt, off int64) (bool, error) {
	b, err := read(r, off, 264)
	if err != nil {
		return false, err
	}
	return len(b) == 264 && bytes.HasPrefix(b, secondaryMagic) &&
		binary.BigEndian.Uint16(b[6:]) == 2 &&
		binary.BigEndian.Uint64(b[256:]) == uint64(off), nil
}

// withoutPrimary returns the error for a volume that does not begin with a LUKS
// magic. It looks for the second copy, since "not LUKS" would be the wrong thing
// to say to somebody whose first sector was overwritten.
func withoutPrimary(r io.ReaderAt) error {
	for _, off := range luks2Sizes {
		found, err := secondaryAt(r, off)
		if err != nil {
			return err
		}
		if found {
			return fmt.Errorf("%w: the beginning was overwritten, but the second copy of a LUKS2 header is at offset %d: `cryptsetup repair` can restore it, unless something else is there by intention",
				ErrDamaged, off)
		}
	}
	return ErrNotLUKS
}
