package luks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// The magics of the copies of a header that is marked as incomplete, in place of "LUKS\xba\xbe" and "SKUL\xba\xbe". They are as
// long, and no other program knows them.
var (
	incompleteMagic          = []byte("PLUK\xba\xbe")
	incompleteSecondaryMagic = []byte("KULP\xba\xbe")
)

// IsIncomplete reports whether b begins with the magic of a header that is marked as incomplete, see [ErrIncomplete]. It has 6
// bytes.
func IsIncomplete(b []byte) bool { return bytes.HasPrefix(b, incompleteMagic) }

// ReadIncomplete is [ReadHeader] for a volume that may be incomplete: it reads a header as if it had no mark, and
// [Header.Incomplete] reports whether it has one. The first copy of a LUKS2 header decides that. The errors are those of
// [ReadHeader], except for [ErrIncomplete].
func ReadIncomplete(r io.ReaderAt) (*Header, error) {
	u := unmarked{r: r}
	start, err := read(r, 0, len(magic)+2)
	if err != nil {
		return nil, err
	}
	if IsIncomplete(start) {
		u.marks = append(u.marks, mark{0, magic})
	}
	if len(start) == len(magic)+2 && binary.BigEndian.Uint16(start[len(magic):]) == 2 {
		for _, off := range luks2Sizes {
			found, err := isSecondary(r, off, incompleteSecondaryMagic)
			if err != nil {
				return nil, err
			}
			if found {
				u.marks = append(u.marks, mark{off, secondaryMagic})
			}
		}
	}
	h, err := ReadHeader(u)
	if err != nil {
		return nil, err
	}
	h.Incomplete = IsIncomplete(start)
	return h, nil
}

// mark is where a copy of a header is marked, and the magic that it has without the mark.
type mark struct {
	off   int64
	magic []byte
}

// unmarked reads headers as they are without their marks.
type unmarked struct {
	r     io.ReaderAt
	marks []mark
}

// ReadAt implements [io.ReaderAt].
func (u unmarked) ReadAt(b []byte, off int64) (int, error) {
	n, err := u.r.ReadAt(b, off)
	for _, m := range u.marks {
		for i, c := range m.magic {
			if at := m.off + int64(i) - off; at >= 0 && at < int64(n) {
				b[at] = c
			}
		}
	}
	return n, err
}

// magics are those of one copy of a header.
type magics struct {
	off                  int64
	complete, incomplete []byte
}

// magics returns those of the copies, the first one first.
func (h *Header) magics() []magics {
	all := []magics{{0, magic, incompleteMagic}}
	if h.LUKS2 != nil {
		all = append(all, magics{h.LUKS2.Size, secondaryMagic, incompleteSecondaryMagic})
	}
	return all
}

// Incomplete returns a copy of a header, as [Format.Header] makes it, that is marked as incomplete. Only the magics differ, which
// no checksum covers as they are marked: the checksums are those of the header without the mark. The errors are those of
// [ReadIncomplete].
func Incomplete(header []byte) ([]byte, error) {
	h, err := ReadIncomplete(bytes.NewReader(header))
	if err != nil {
		return nil, fmt.Errorf("mark the header as incomplete: %w", err)
	}
	out := bytes.Clone(header)
	for _, m := range h.magics() {
		if first := out[min(m.off, int64(len(out))):]; m.at(first) {
			copy(first, m.incomplete)
		}
	}
	return out, nil
}

// MarkIncomplete marks the header in s as incomplete, and returns once that is stored, and read back. It changes nothing but the
// magics, and nothing at all if the header is marked. The caller keeps others from changing the header meanwhile.
//
// Each mark is one write of a sector. The first copy of a LUKS2 header, which decides, is marked last: after a crash the volume is
// complete, or incomplete for every program, and the same call finishes. The other way round, cryptsetup would restore the
// first copy from the second one, and remove the mark, as soon as it reads the header. The errors are those of
// [ReadIncomplete], those of s, or wrap [ErrNotStored].
func MarkIncomplete(s Storage) error {
	if err := changeMagics(s, func(m magics) []byte { return m.incomplete }); err != nil {
		return fmt.Errorf("mark the header as incomplete: %w", err)
	}
	return nil
}

// Complete removes the marks of an incomplete volume from the header in s, once all data of the volume are stored. It returns once
// that is stored, and read back. It changes nothing if the header has no mark. The caller keeps others from changing the header
// meanwhile.
//
// The first copy of a LUKS2 header, which decides, loses its mark last: after a crash [ReadHeader] takes the volume for incomplete,
// and the same call finishes, or for complete. cryptsetup takes it for complete from the first write on, and then restores the
// first copy from the second one by itself, which is right: all data are stored. The errors are those of [ReadIncomplete],
// those of s, or wrap [ErrNotStored].
func Complete(s Storage) error {
	if err := changeMagics(s, func(m magics) []byte { return m.complete }); err != nil {
		return fmt.Errorf("remove the mark of an incomplete volume: %w", err)
	}
	return nil
}

// changeMagics stores the magics that of returns, that of the first copy last.
func changeMagics(s Storage, of func(magics) []byte) error {
	h, err := ReadIncomplete(s)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(h.magics()) {
		if err := m.store(s, of(m)); err != nil {
			return err
		}
	}
	return nil
}

// at reports whether b begins with the copy. A damaged one has neither magic, and stays as it is.
func (m magics) at(b []byte) bool {
	return bytes.HasPrefix(b, m.complete) || bytes.HasPrefix(b, m.incomplete)
}

// store writes the first sector of a copy with one of the magics, unless it has it.
func (m magics) store(s Storage, value []byte) error {
	sector, err := read(s, m.off, SectorSize)
	if err != nil || !m.at(sector) || bytes.HasPrefix(sector, value) {
		return err
	}
	copy(sector, value)
	return store(s, sector, m.off)
}
