package luks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors of [ReadHeader]. Test with [errors.Is].
var (
	// ErrNotLUKS: there is no LUKS header at all.
	ErrNotLUKS = errors.New("not a LUKS header")
	// ErrUnsupported: a LUKS header of a kind that this package cannot read, or,
	// from the other functions, cannot unlock.
	ErrUnsupported = errors.New("unsupported LUKS header")
	// ErrDamaged: a LUKS header with invalid or inconsistent values.
	ErrDamaged = errors.New("damaged LUKS header")
	// ErrOverwritten: there is the second copy of a LUKS2 header, and no first one. It may
	// be a damaged volume, or the remains of one under other content. It is an
	// [ErrDamaged] too.
	ErrOverwritten = fmt.Errorf("%w: its beginning was overwritten", ErrDamaged)
	// ErrReencryption: a LUKS1 volume whose re-encryption was interrupted. cryptsetup
	// makes the header unusable meanwhile, and the volume is full of data.
	ErrReencryption = errors.New("a re-encryption of this LUKS1 volume was interrupted")
	// ErrIncomplete: the header is marked as that of one of the two volumes of a re-encryption, which lacks data: the new one
	// until it is filled, and the old one from then on. Neither QEMU nor cryptsetup takes it for a LUKS header. [ReadIncomplete]
	// reads it.
	ErrIncomplete = errors.New("the volume is one of the two of a re-encryption, and lacks a part of the data")
)

// Errors of [Header.Unlock]. Test with [errors.Is].
var (
	// ErrWrongPassphrase: the passphrase opens no key slot that was tried.
	ErrWrongPassphrase = errors.New("wrong passphrase")
	// ErrNoKeySlot: there is no key slot to try.
	ErrNoKeySlot = errors.New("no key slot of the LUKS header is in use: no passphrase can open it")
)

// SectorSize is the unit, in bytes, of all offsets in a LUKS1 header.
const SectorSize = 512

// UnknownOffset is the result of [Header.PayloadOffset] if there is no single
// offset.
const UnknownOffset int64 = -1

var (
	magic          = []byte("LUKS\xba\xbe")
	secondaryMagic = []byte("SKUL\xba\xbe") // LUKS2's second copy
	// cryptsetup's src/utils_reencrypt_luks1.c, NOMAGIC
	reencryptionMagic = []byte("LUKS\xde\xad")
)

// Header is the content of a LUKS header. Exactly one of LUKS1 and LUKS2 is set,
// according to Version.
type Header struct {
	Version int    // 1 or 2
	UUID    string // as written in the header; may be empty
	LUKS1   *LUKS1
	LUKS2   *LUKS2
	// Incomplete is true if the header is marked, see [ErrIncomplete]. Only [ReadIncomplete] returns such a header.
	Incomplete bool

	r io.ReaderAt // for key material
}

// InReencryption reports whether b begins with the magic of a LUKS1 header during a
// re-encryption, see [ErrReencryption]. It has 6 bytes.
func InReencryption(b []byte) bool { return bytes.HasPrefix(b, reencryptionMagic) }

// HasMagic reports whether b begins with the magic of a LUKS header, which has 6 bytes.
func HasMagic(b []byte) bool { return bytes.HasPrefix(b, magic) }

// ReadHeader reads the LUKS header at the beginning of r. Errors wrap
// [ErrNotLUKS], [ErrUnsupported], [ErrDamaged], [ErrReencryption], [ErrIncomplete], or the error of r. It keeps r for
// [Header.Unlock]. It allocates a few kB for LUKS1, and for LUKS2 a few times the
// size of the JSON area, usually 16 kB and at most 4 MB.
//
// For LUKS2 it returns the newer intact copy. A header that can be read does not
// imply that its volume can be opened: see [Header.Usable].
func ReadHeader(r io.ReaderAt) (*Header, error) {
	start, err := read(r, 0, len(magic)+2)
	if err != nil {
		return nil, err
	}
	if InReencryption(start) {
		return nil, fmt.Errorf("%w: finish it with `cryptsetup reencrypt`, and keep its files LUKS-*.log, .org and .new until then", ErrReencryption)
	}
	if IsIncomplete(start) {
		return nil, fmt.Errorf("%w: use the other one, which has all of them", ErrIncomplete)
	}
	if !HasMagic(start) {
		return nil, withoutPrimary(r)
	}
	if len(start) < len(magic)+2 {
		return nil, fmt.Errorf("%w: it ends after %d bytes", ErrDamaged, len(start))
	}
	switch version := binary.BigEndian.Uint16(start[len(magic):]); version {
	case 1:
		return readLUKS1(r)
	case 2:
		return readLUKS2(r)
	default:
		return nil, fmt.Errorf("%w: version %d: only 1 and 2 are known", ErrUnsupported, version)
	}
}

// PayloadOffset returns the offset of the payload, in bytes from the beginning of
// the volume that contains it: 0 for most detached headers, [UnknownOffset] for LUKS2
// without exactly one crypt segment.
func (h *Header) PayloadOffset() int64 {
	switch {
	case h.LUKS1 != nil:
		return int64(h.LUKS1.PayloadSectors) * SectorSize
	case h.LUKS2 != nil && len(h.LUKS2.Segments) == 1 && h.LUKS2.Segments[0].Type == typeCrypt:
		return h.LUKS2.Segments[0].Offset
	default:
		return UnknownOffset
	}
}

// ActiveSlots returns the numbers of the key slots in use, in ascending order. A
// header without active slots cannot be opened.
func (h *Header) ActiveSlots() []int {
	var active []int
	if h.LUKS1 != nil {
		for i, slot := range h.LUKS1.Slots {
			if slot.Active {
				active = append(active, i)
			}
		}
	}
	if h.LUKS2 != nil {
		for _, slot := range h.LUKS2.KeySlots {
			if slot.Type == typeLUKS2 {
				active = append(active, slot.ID)
			}
		}
	}
	return active
}

// String returns a human-readable description: "LUKS1 aes-xts-plain64 sha256, 512-bit
// key, 1 of 8 key slots in use", "LUKS2 aes-xts-plain64 argon2id, 512-bit key, 1
// key slot in use". It has a value receiver so that printing never shows
// salts and digests.
func (h Header) String() string {
	switch {
	case h.LUKS1 != nil:
		return fmt.Sprintf("LUKS1 %s-%s %s, %d-bit key, %d of %d key slots in use",
			h.LUKS1.Cipher, h.LUKS1.Mode, h.LUKS1.Hash, h.LUKS1.KeyBytes*8, len(h.ActiveSlots()), Slots)
	case h.LUKS2 != nil:
		return h.LUKS2.describe()
	default:
		return fmt.Sprintf("LUKS%d", h.Version)
	}
}

// GoString returns h.String(), for %#v.
func (h Header) GoString() string { return h.String() }

// read returns up to n bytes at off; fewer only at the end of r.
func read(r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := r.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the LUKS header at offset %d: %w", off, err)
	}
	return b[:n], nil
}

// text returns the string in a NUL-padded field, which must be ASCII without control
// characters because it is printed.
func text(field []byte, what string) (string, error) {
	value, _, terminated := bytes.Cut(field, []byte{0})
	if !terminated {
		return "", fmt.Errorf("%w: the %s is not terminated", ErrDamaged, what)
	}
	for _, c := range value {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("%w: the %s %q is not a name", ErrDamaged, what, value)
		}
	}
	return string(value), nil
}
