package luks

import (
	"bytes"
	"crypto/rand"
	"slices"
)

// span is a part of a header, from start to end in bytes.
type span struct{ start, end int64 }

// metadata returns the copies of the metadata, the first one first. Key material follows the last one.
func (h *Header) metadata() []span {
	if h.LUKS2 != nil {
		return []span{{0, h.LUKS2.Size}, {h.LUKS2.Size, 2 * h.LUKS2.Size}}
	}
	return []span{{0, luks1MinStart * SectorSize}}
}

// Write writes content, which begins with the header h and may end anywhere after its metadata, to s, and returns once it is
// stored. The key material is stored first, then LUKS2's second copy of the metadata, and then the first copy.
//
// After a crash s has the volume of h as [Backup.Compare] sees it, if s had it before or all key material is stored: a change
// that was interrupted is repeated. A program that puts back what was in s before calls Write of the same header. The errors
// are those of s, or wrap [ErrNotStored].
func (h *Header) Write(s Storage, content []byte) error {
	copies := h.metadata()
	parts := []span{{copies[len(copies)-1].end, int64(len(content))}}
	for _, c := range slices.Backward(copies) {
		parts = append(parts, c)
	}
	for _, p := range parts {
		if err := store(s, content[p.start:p.end], p.start); err != nil {
			return err
		}
	}
	return nil
}

// Wipe overwrites the first length bytes of s, where the header h is, and returns once they read back as zeros. It writes
// random bytes before the zeros, because storage may release what is overwritten with zeros instead of overwriting it.
//
// The key material is wiped first, then the metadata, and their first sector last, which is overwritten with zeros only: it
// has nothing that depends on a passphrase, and [Header.Leftover] recognises the header by it after a crash. The errors are
// those of s, or wrap [ErrNotStored].
func (h *Header) Wipe(s Storage, length int64) error {
	copies := h.metadata()
	end := min(copies[len(copies)-1].end, length)
	for _, p := range []span{{end, length}, {SectorSize, end}} {
		random := make([]byte, max(p.end-p.start, 0))
		_, _ = rand.Read(random) // never returns an error: it crashes the program instead
		if err := store(s, random, p.start); err != nil {
			return err
		}
		clear(random)
		if err := store(s, random, p.start); err != nil {
			return err
		}
	}
	return store(s, make([]byte, min(SectorSize, length)), 0)
}

// Leftover is what is in the place of a header, see [Header.Leftover].
type Leftover string

// What is in the place of a header.
const (
	// LeftOther: something else than the header.
	LeftOther Leftover = "other"
	// LeftHeader: the header's metadata, and any key material: that of the header, or what is left of it.
	LeftHeader Leftover = "header"
	// LeftWiped: what an interrupted [Header.Wipe] leaves of the header.
	LeftWiped Leftover = "wiped in part"
	// LeftWritten: what an interrupted [Header.Write] leaves where there were zeros: each sector is that of the header,
	// or has zeros.
	LeftWritten Leftover = "written in part"
	// LeftNothing: zeros.
	LeftNothing Leftover = "nothing"
)

// Leftover compares what is in the place of the header h, whose bytes content has, with the header. Only a header with
// exactly the same metadata is [LeftHeader]: another copy of the header of the same volume, whose key slots have changed
// since, is [LeftOther], see [Backup.Compare].
func (h *Header) Leftover(content, there []byte) Leftover {
	copies := h.metadata()
	end := copies[len(copies)-1].end
	sameUntil := func(n int64) bool {
		return int64(len(content)) >= n && int64(len(there)) >= n && bytes.Equal(content[:n], there[:n])
	}
	switch {
	case zeros(there):
		return LeftNothing
	case sameUntil(end):
		return LeftHeader
	case sameUntil(SectorSize) && zeros(there[min(end, int64(len(there))):]):
		return LeftWiped
	case eachSector(there, content):
		return LeftWritten
	}
	return LeftOther
}

// eachSector reports whether each sector of there is that of content, or has zeros.
func eachSector(there, content []byte) bool {
	for at := 0; at < len(there); at += SectorSize {
		sector := there[at:min(at+SectorSize, len(there))]
		if !zeros(sector) && (at+len(sector) > len(content) || !bytes.Equal(sector, content[at:at+len(sector)])) {
			return false
		}
	}
	return true
}

// zeros reports whether b has zeros only.
func zeros(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
