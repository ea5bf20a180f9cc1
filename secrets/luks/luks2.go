package luks

import (
	"bytes"
	"cmp"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Constants of LUKS2 (LUKS2 On-Disk Format Specification 1.1, section 2.1).
const (
	// luks2Size is the length of the binary header, which the JSON area follows.
	luks2Size     = 4096
	luks2Checksum = 448 // offset of the checksum, which has 64 bytes
)

// luks2Sizes are the possible lengths, in bytes, of a binary header with its JSON
// area. The second copy follows the first, so they are also the possible offsets of
// the second copy (section 2.2).
var luks2Sizes = [...]int64{0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000}

// LUKS2 is the header of a LUKS2 volume, from the newer intact copy. Its lists are
// in ascending order of ID.
type LUKS2 struct {
	Size       int64  // bytes of one copy, JSON area included
	SequenceID uint64 // counts updates: the copy with the higher one is newer
	Label      string // may be empty
	Subsystem  string // may be empty

	// Offset is the offset of this copy: 0 or Size. OtherCopy is the error of
	// the other copy, which `cryptsetup repair` restores; nil if it is
	// intact.
	Offset    int64
	OtherCopy error

	KeySlots []LUKS2KeySlot
	Segments []Segment
	Digests  []Digest
	Tokens   []Token
	// Requirements are the names of features that a reader must support to use
	// the volume. This package supports none.
	Requirements []string
}

// readLUKS2 reads both copies and returns the newer intact one. The caller has checked
// the magic of the first copy.
func readLUKS2(r io.ReaderAt) (*Header, error) {
	first, firstErr := readCopy(r, 0)
	if firstErr != nil && !isVerdict(firstErr) {
		return nil, firstErr
	}
	second, secondErr := readSecond(r, first)
	if secondErr != nil && !isVerdict(secondErr) {
		return nil, secondErr
	}
	use := first
	switch {
	case first == nil && second == nil:
		return nil, firstErr
	case first == nil:
		use = second
		use.LUKS2.OtherCopy = firstErr
	case second == nil:
		use.LUKS2.OtherCopy = secondErr
	case second.LUKS2.SequenceID > first.LUKS2.SequenceID:
		use = second
		use.LUKS2.OtherCopy = fmt.Errorf("%w: the first copy, number %d, is older than the second, number %d",
			ErrDamaged, first.LUKS2.SequenceID, second.LUKS2.SequenceID)
	case second.LUKS2.SequenceID < first.LUKS2.SequenceID:
		use.LUKS2.OtherCopy = fmt.Errorf("%w: the second copy, number %d, is older than the first, number %d",
			ErrDamaged, second.LUKS2.SequenceID, first.LUKS2.SequenceID)
	}
	use.r = r
	if err := use.LUKS2.checkMaterial(r); err != nil {
		return nil, err
	}
	return use, nil
}

// isVerdict reports whether an error concerns the content of the header, rather than
// reading it.
func isVerdict(err error) bool { return errors.Is(err, ErrDamaged) || errors.Is(err, ErrUnsupported) }

// readSecond reads the second copy: after the first one, or, if the first one is
// damaged, at any possible offset.
func readSecond(r io.ReaderAt, first *Header) (*Header, error) {
	if first != nil {
		return readCopy(r, first.LUKS2.Size)
	}
	for _, off := range luks2Sizes {
		found, err := secondaryAt(r, off)
		if err != nil {
			return nil, err
		}
		if found {
			return readCopy(r, off)
		}
	}
	return nil, fmt.Errorf("%w: there is no second copy of the LUKS2 header", ErrDamaged)
}

// readCopy reads and checks the copy of the header at off.
func readCopy(r io.ReaderAt, off int64) (*Header, error) {
	b, err := read(r, off, luks2Size)
	if err != nil {
		return nil, err
	}
	if len(b) < luks2Size {
		return nil, fmt.Errorf("%w: it ends %d bytes after offset %d, a LUKS2 header has %d or more", ErrDamaged, len(b), off, luks2Sizes[0])
	}
	want := magic
	if off != 0 {
		want = secondaryMagic
	}
	if !bytes.HasPrefix(b, want) || binary.BigEndian.Uint16(b[6:]) != 2 {
		return nil, fmt.Errorf("%w: no copy of the LUKS2 header is at offset %d", ErrDamaged, off)
	}
	size := binary.BigEndian.Uint64(b[8:])
	if !isLUKS2Size(size) {
		return nil, fmt.Errorf("%w: a LUKS2 header cannot have %d bytes", ErrDamaged, size)
	}
	if off != 0 && size != uint64(off) {
		return nil, fmt.Errorf("%w: the second copy of the LUKS2 header, of %d bytes, cannot be at offset %d", ErrDamaged, size, off)
	}
	if offset := binary.BigEndian.Uint64(b[256:]); offset != uint64(off) {
		return nil, fmt.Errorf("%w: the copy of the LUKS2 header at offset %d has the offset %d in it", ErrDamaged, off, offset)
	}
	area, err := read(r, off+luks2Size, int(size)-luks2Size)
	if err != nil {
		return nil, err
	}
	if len(area) < int(size)-luks2Size {
		return nil, fmt.Errorf("%w: the JSON area at offset %d is cut off", ErrDamaged, off+luks2Size)
	}
	if err := verifyChecksum(b, area, off); err != nil {
		return nil, err
	}
	return parseLUKS2(b, area, off)
}

// verifyChecksum verifies the checksum in the binary header b. It also covers the
// JSON area, and is computed with its own field set to zeros (section 2.1).
func verifyChecksum(b, area []byte, off int64) error {
	sum, err := checksumOf(b, area)
	if err != nil {
		return fmt.Errorf("checksum of the copy at offset %d: %w", off, err)
	}
	if subtle.ConstantTimeCompare(sum, b[luks2Checksum:][:len(sum)]) != 1 {
		return fmt.Errorf("%w: the checksum of the LUKS2 header at offset %d is wrong", ErrDamaged, off)
	}
	return nil
}

// checksumOf returns the checksum of a binary header and its JSON area, by the algorithm that the header names.
func checksumOf(b, area []byte) ([]byte, error) {
	name, err := text(b[72:104], "checksum algorithm")
	if err != nil {
		return nil, err
	}
	algorithm, err := findHash(name)
	if err != nil {
		return nil, err
	}
	h := algorithm.make()
	for _, part := range [][]byte{b[:luks2Checksum], make([]byte, 64), b[luks2Checksum+64:], area} {
		_, _ = h.Write(part) // hash.Hash: never returns an error
	}
	return h.Sum(nil), nil
}

func parseLUKS2(b, area []byte, off int64) (*Header, error) {
	h := &LUKS2{Size: int64(len(b) + len(area)), SequenceID: binary.BigEndian.Uint64(b[16:]), Offset: off}
	var err error
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
	if err := h.parseJSON(area); err != nil {
		return nil, err
	}
	return &Header{Version: 2, UUID: uuid, LUKS2: h}, nil
}

// describe returns the result of Header.String for a LUKS2 header.
func (h *LUKS2) describe() string {
	var what []string
	for _, s := range h.Segments {
		what = append(what, cmp.Or(s.Encryption, s.Type))
	}
	inUse, key := 0, ""
	for _, s := range h.KeySlots {
		if s.Type == typeLUKS2 {
			inUse++
			what = append(what, s.KDF.Type)
			key = fmt.Sprintf(" %d-bit key,", s.KeyBytes*8)
		}
	}
	plural := "s"
	if inUse == 1 {
		plural = ""
	}
	return fmt.Sprintf("LUKS2 %s,%s %d key slot%s in use", strings.Join(slices.Compact(what), " "), key, inUse, plural)
}

func isLUKS2Size(size uint64) bool {
	for _, possible := range luks2Sizes {
		if size == uint64(possible) {
			return true
		}
	}
	return false
}

// label returns a text from the user. It may have any characters: print it with %q.
func label(field []byte, what string) (string, error) {
	value, _, terminated := bytes.Cut(field, []byte{0})
	if !terminated {
		return "", fmt.Errorf("%w: the %s is not terminated", ErrDamaged, what)
	}
	return string(value), nil
}

// secondaryAt reports whether the second copy of a LUKS2 header is at off.
func secondaryAt(r io.ReaderAt, off int64) (bool, error) { return isSecondary(r, off, secondaryMagic) }

// isSecondary reports whether the second copy of a LUKS2 header, with that magic, is at off.
func isSecondary(r io.ReaderAt, off int64, value []byte) (bool, error) {
	b, err := read(r, off, 264)
	if err != nil {
		return false, err
	}
	return len(b) == 264 && bytes.HasPrefix(b, value) &&
		binary.BigEndian.Uint16(b[6:]) == 2 &&
		binary.BigEndian.Uint64(b[256:]) == uint64(off), nil
}

// withoutPrimary returns the error for a volume that does not begin with a LUKS magic.
// It searches for the second copy, because "not LUKS" would be wrong for a volume whose
// first sector was overwritten. It does not use that copy: the volume may now have other content.
func withoutPrimary(r io.ReaderAt) error {
	for _, off := range luks2Sizes {
		found, err := secondaryAt(r, off)
		if err != nil {
			return err
		}
		if found {
			return fmt.Errorf("%w, and the second copy of a LUKS2 header is at offset %d", ErrOverwritten, off)
		}
	}
	return ErrNotLUKS
}
