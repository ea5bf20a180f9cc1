package luks

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Constants of LUKS1 (LUKS On-Disk Format Specification 1.2.3, "phdr layout" and "key
// slot layout").
const (
	Slots   = 8    // key slots in every header
	Stripes = 4000 // anti-forensic stripes; QEMU and cryptsetup accept no other number

	luks1Size     = 592 // bytes of the header without key material
	luks1Keys     = 208 // offset of the key slots
	luks1KeySlot  = 48  // bytes of one key slot
	slotActive    = 0x00AC71F3
	slotDisabled  = 0x0000DEAD
	luks1MinStart = (luks1Size + SectorSize - 1) / SectorSize // first possible sector of key material

	// maxKeyBytes is far above the key length of every cipher (xts with two
	// 256-bit keys: 64), and bounds the sizes that are computed from it.
	maxKeyBytes = 512
)

// LUKS1 is the header of a LUKS1 volume.
type LUKS1 struct {
	Cipher string // "aes"
	Mode   string // "xts-plain64"
	Hash   string // "sha256", for key derivation and anti-forensic splitter

	PayloadSectors uint32 // offset of the payload in sectors; 0 means another file
	KeyBytes       int    // length of the volume key, 1..512

	// The digest of the volume key, computed by PBKDF2.
	Digest           [20]byte
	DigestSalt       [32]byte
	DigestIterations uint32 // at least 1

	Slots [Slots]KeySlot
}

// KeySlot is a key slot of a LUKS1 header.
type KeySlot struct {
	Active bool
	// PBKDF2 of the passphrase; at least one iteration if Active.
	Iterations uint32
	Salt       [32]byte
	// The offset of the encrypted, split volume key in sectors, and its
	// number of stripes, which is always [Stripes].
	MaterialSectors uint32
	Stripes         uint32
}

// MaterialSize returns the length of a slot's key material in bytes.
func (h *LUKS1) MaterialSize() int64 { return int64(h.KeyBytes) * Stripes }

func readLUKS1(r io.ReaderAt) (*Header, error) {
	b, err := read(r, 0, luks1Size)
	if err != nil {
		return nil, err
	}
	if len(b) < luks1Size {
		return nil, fmt.Errorf("%w: it ends after %d bytes, a LUKS1 header has %d", ErrDamaged, len(b), luks1Size)
	}
	h, err := parseLUKS1(b)
	if err != nil {
		return nil, err
	}
	if err := h.checkSlots(); err != nil {
		return nil, err
	}
	if err := h.checkMaterial(r); err != nil {
		return nil, err
	}
	uuid, err := text(b[168:208], "UUID")
	if err != nil {
		return nil, err
	}
	return &Header{Version: 1, UUID: uuid, LUKS1: h, r: r}, nil
}

// parseLUKS1 parses the fields and checks each separately.
func parseLUKS1(b []byte) (*LUKS1, error) {
	h := &LUKS1{
		PayloadSectors:   binary.BigEndian.Uint32(b[104:]),
		Digest:           [20]byte(b[112:132]),
		DigestSalt:       [32]byte(b[132:164]),
		DigestIterations: binary.BigEndian.Uint32(b[164:]),
	}
	for _, field := range []struct {
		what string
		at   int
		to   *string
	}{
		{"cipher name", 8, &h.Cipher}, {"cipher mode", 40, &h.Mode}, {"hash name", 72, &h.Hash},
	} {
		value, err := text(b[field.at:field.at+32], field.what)
		if err != nil {
			return nil, err
		}
		if value == "" {
			return nil, fmt.Errorf("%w: the %s is empty", ErrDamaged, field.what)
		}
		*field.to = value
	}
	keyBytes := binary.BigEndian.Uint32(b[108:])
	if keyBytes == 0 || keyBytes > maxKeyBytes {
		return nil, fmt.Errorf("%w: a volume key of %d bytes: 1 to %d are possible", ErrDamaged, keyBytes, maxKeyBytes)
	}
	h.KeyBytes = int(keyBytes)
	if h.DigestIterations == 0 {
		return nil, fmt.Errorf("%w: the digest has no iterations", ErrDamaged)
	}
	for i := range h.Slots {
		slot := b[luks1Keys+i*luks1KeySlot:][:luks1KeySlot]
		state := binary.BigEndian.Uint32(slot)
		if state != slotActive && state != slotDisabled {
			return nil, fmt.Errorf("%w: key slot %d is neither in use nor free: its state is %#x", ErrDamaged, i, state)
		}
		h.Slots[i] = KeySlot{
			Active:          state == slotActive,
			Iterations:      binary.BigEndian.Uint32(slot[4:]),
			Salt:            [32]byte(slot[8:40]),
			MaterialSectors: binary.BigEndian.Uint32(slot[40:]),
			Stripes:         binary.BigEndian.Uint32(slot[44:]),
		}
	}
	return h, nil
}

// checkSlots checks the location of the slots, also of free ones, as QEMU and
// cryptsetup do, so that they accept a header that passes.
func (h *LUKS1) checkSlots() error {
	length := sectors(h.KeyBytes * Stripes)
	for i, slot := range h.Slots {
		start := int64(slot.MaterialSectors)
		end := start + length
		switch {
		case slot.Stripes != Stripes:
			return fmt.Errorf("%w: key slot %d has %d stripes: only %d are supported", ErrUnsupported, i, slot.Stripes, Stripes)
		case slot.Active && slot.Iterations == 0:
			return fmt.Errorf("%w: key slot %d has no iterations", ErrDamaged, i)
		case start < luks1MinStart:
			return fmt.Errorf("%w: the key material of slot %d, at sector %d, is inside the header", ErrDamaged, i, start)
		case h.PayloadSectors != 0 && end > int64(h.PayloadSectors):
			// A payload offset of 0 means another file: no overlap is possible.
			return fmt.Errorf("%w: the key material of slot %d, sectors %d to %d, runs into the payload at %d",
				ErrDamaged, i, start, end-1, h.PayloadSectors)
		}
		for j, other := range h.Slots[:i] {
			if otherStart := int64(other.MaterialSectors); start < otherStart+length && otherStart < end {
				return fmt.Errorf("%w: the key material of slots %d and %d overlaps", ErrDamaged, j, i)
			}
		}
	}
	return nil
}

// checkMaterial checks that the key material of the slots in use exists: the first
// sectors of a header that was truncated in copying are still valid.
func (h *LUKS1) checkMaterial(r io.ReaderAt) error {
	for i, slot := range h.Slots {
		if !slot.Active {
			continue
		}
		last := int64(slot.MaterialSectors)*SectorSize + h.MaterialSize() - 1
		b, err := read(r, last, 1)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return fmt.Errorf("%w: it is cut off: the key material of slot %d ends at byte %d", ErrDamaged, i, last)
		}
	}
	return nil
}
