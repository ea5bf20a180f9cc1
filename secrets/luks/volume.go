package luks

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// volume has the data of a header that unlocking needs, in the same form for LUKS1
// and LUKS2.
type volume struct {
	uuid          string // as written in the header
	encryption    encryption
	keyBytes      int
	payloadOffset int64 // bytes
	digest        kdf   // of the volume key; always pbkdf2
	want          []byte
	slots         []slot // in the order in which they are tried
	// Key slots that cannot be tried, and why. The others are still tried.
	refused []slotError
}

// slotError is the error of a key slot.
type slotError struct {
	slot int
	err  error
}

// slot is a key slot that can be tried.
type slot struct {
	number       int
	priority     int
	kdf          kdf
	offset       int64 // of the key material, in bytes
	encryption   encryption
	areaKeyBytes int
	af           hashAlgorithm
}

// kdf is a key derivation with its parameters.
type kdf struct {
	kind string
	salt []byte
	// For pbkdf2.
	hash       hashAlgorithm
	iterations uint32
	// For argon2i and argon2id.
	time, memory, lanes uint32 // memory in KiB
}

// Usable returns nil if the volume can be opened through an ephemeral header: if
// [Header.Unlock] and [Ephemeral] support everything in its header. Otherwise the
// error wraps [ErrUnsupported], [ErrNoKeySlot] or [ErrDamaged], and names the
// reason. It reads nothing and derives nothing.
func (h *Header) Usable() error {
	v, err := h.volume()
	if err == nil && len(v.slots) == 0 {
		err = v.noSlots()
	}
	return err
}

func (v *volume) noSlots() error {
	if len(v.refused) > 0 {
		return joined(v.refused)
	}
	return ErrNoKeySlot
}

// joined returns the errors as one error with a single line.
func joined(errs []slotError) error {
	var all error
	for _, e := range errs {
		err := fmt.Errorf("key slot %d: %w", e.slot, e.err)
		if all != nil {
			err = fmt.Errorf("%w; %w", all, err)
		}
		all = err
	}
	return all
}

func (h *Header) volume() (*volume, error) {
	var v *volume
	var err error
	switch {
	case h.LUKS1 != nil:
		v, err = h.LUKS1.volume()
	case h.LUKS2 != nil:
		v, err = h.LUKS2.volume()
	default:
		return nil, fmt.Errorf("%w: an empty Header: take it from ReadHeader", ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	v.uuid = h.UUID
	slices.SortStableFunc(v.slots, func(a, b slot) int { return cmp.Compare(b.priority, a.priority) })
	if err := v.encryption.checkKey(v.keyBytes); err != nil {
		return nil, err
	}
	// An ephemeral header must be able to represent the payload offset.
	_, err = layOut(v.keyBytes, v.payloadOffset)
	return v, err
}

func (h *LUKS1) volume() (*volume, error) {
	e, err := parseEncryption(h.Cipher + "-" + h.Mode)
	if err != nil {
		return nil, err
	}
	algorithm, err := findHash(h.Hash)
	if err != nil {
		return nil, err
	}
	v := &volume{
		encryption:    e,
		keyBytes:      h.KeyBytes,
		payloadOffset: int64(h.PayloadSectors) * SectorSize,
		digest:        kdf{kind: typePBKDF2, salt: h.DigestSalt[:], hash: algorithm, iterations: h.DigestIterations},
		want:          h.Digest[:],
	}
	for i := range h.Slots {
		s := &h.Slots[i]
		if !s.Active {
			continue
		}
		v.slots = append(v.slots, slot{
			number:       i,
			priority:     PriorityNormal,
			kdf:          kdf{kind: typePBKDF2, salt: s.Salt[:], hash: algorithm, iterations: s.Iterations},
			offset:       int64(s.MaterialSectors) * SectorSize,
			encryption:   e,
			areaKeyBytes: h.KeyBytes,
			af:           algorithm,
		})
	}
	return v, nil
}

func (h *LUKS2) volume() (*volume, error) {
	segment, err := h.segment()
	if err != nil {
		return nil, err
	}
	digest, err := h.digestOf(segment)
	if err != nil {
		return nil, err
	}
	e, err := parseEncryption(segment.Encryption)
	if err != nil {
		return nil, err
	}
	algorithm, err := findHash(digest.Hash)
	if err != nil {
		return nil, fmt.Errorf("digest %d: %w", digest.ID, err)
	}
	v := &volume{
		encryption:    e,
		payloadOffset: segment.Offset,
		digest:        kdf{kind: typePBKDF2, salt: digest.Salt, hash: algorithm, iterations: digest.Iterations},
		want:          digest.Digest,
	}
	for _, s := range h.KeySlots {
		if !slices.Contains(digest.KeySlots, s.ID) {
			continue // holds another key
		}
		if s.Type == typeLUKS2 {
			if v.keyBytes != 0 && v.keyBytes != s.KeyBytes {
				return nil, fmt.Errorf("%w: key slot %d holds a volume key of %d bytes, another one of %d", ErrDamaged, s.ID, s.KeyBytes, v.keyBytes)
			}
			v.keyBytes = s.KeyBytes
		}
		converted, err := s.slot()
		if err != nil {
			v.refused = append(v.refused, slotError{s.ID, err})
			continue
		}
		v.slots = append(v.slots, converted)
	}
	if v.keyBytes == 0 {
		return nil, v.noSlots()
	}
	return v, nil
}

// segment returns the only segment, if QEMU's LUKS driver decrypts it correctly with
// the volume key. QEMU would open other kinds too, and then read and write wrong
// data.
func (h *LUKS2) segment() (*Segment, error) {
	refuse := func(format string, args ...any) (*Segment, error) {
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
	}
	for _, s := range h.KeySlots {
		if s.Type == typeReencr {
			return refuse("reencryption is in progress (key slot %d): finish it with `cryptsetup reencrypt --resume-only`", s.ID)
		}
	}
	for _, name := range h.Requirements {
		if strings.Contains(name, "reencrypt") {
			return refuse("reencryption is in progress (requirement %q): finish it with `cryptsetup reencrypt --resume-only`", name)
		}
	}
	if len(h.Requirements) > 0 {
		return refuse("requirement %q is not supported", h.Requirements[0])
	}
	if n := len(h.Segments); n != 1 {
		return refuse("the payload has %d segments: only 1 is possible", n)
	}
	s := &h.Segments[0]
	switch {
	case s.Type != typeCrypt:
		return refuse("segment %d is of type %q: only %q is possible", s.ID, s.Type, typeCrypt)
	case len(s.Flags) > 0:
		return refuse("segment %d has the flag %q", s.ID, s.Flags[0])
	case s.Integrity:
		return refuse("segment %d has integrity protection (dm-integrity)", s.ID)
	case s.SectorSize != SectorSize:
		return refuse("segment %d has sectors of %d bytes: QEMU's LUKS driver counts sectors of %d and would decrypt only some of them right. "+
			"While nothing uses the volume, re-encrypt it with `cryptsetup reencrypt --sector-size 512`; or open it on the host with `cryptsetup open`, and attach /dev/mapper/NAME without <encryption>; "+
			"make new volumes with `cryptsetup luksFormat --sector-size 512`", s.ID, s.SectorSize, SectorSize)
	case s.IVTweak != 0:
		return refuse("segment %d counts its sectors from %d (iv_tweak): QEMU's LUKS driver counts from 0", s.ID, s.IVTweak)
	case s.Size != 0:
		return refuse("segment %d ends after %d bytes: QEMU's LUKS driver would go on up to the end of the device", s.ID, s.Size)
	}
	return s, nil
}

// digestOf returns the digest of the segment's volume key.
func (h *LUKS2) digestOf(s *Segment) (*Digest, error) {
	var found *Digest
	for i := range h.Digests {
		if !slices.Contains(h.Digests[i].Segments, s.ID) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: segment %d has two digests, %d and %d", ErrDamaged, s.ID, found.ID, h.Digests[i].ID)
		}
		found = &h.Digests[i]
	}
	switch {
	case found == nil:
		return nil, fmt.Errorf("%w: segment %d has no digest: a volume key cannot be verified", ErrDamaged, s.ID)
	case found.Type != typePBKDF2:
		return nil, fmt.Errorf("%w: digest %d is of type %q", ErrUnsupported, found.ID, found.Type)
	}
	return found, nil
}

func (s *LUKS2KeySlot) slot() (slot, error) {
	if s.Type != typeLUKS2 {
		return slot{}, fmt.Errorf("%w: type %q", ErrUnsupported, s.Type)
	}
	out := slot{number: s.ID, priority: s.Priority, offset: s.Offset, areaKeyBytes: s.AreaKeyBytes}
	var err error
	if out.encryption, err = parseEncryption(s.Encryption); err != nil {
		return slot{}, err
	}
	if err := out.encryption.checkKey(s.AreaKeyBytes); err != nil {
		return slot{}, err
	}
	if out.af, err = findHash(s.AFHash); err != nil {
		return slot{}, err
	}
	out.kdf, err = s.KDF.kdf()
	return out, err
}

func (k *KDF) kdf() (kdf, error) {
	out := kdf{kind: k.Type, salt: k.Salt, iterations: k.Iterations, time: k.Time, memory: k.Memory, lanes: k.Lanes}
	var err error
	switch k.Type {
	case typePBKDF2:
		out.hash, err = findHash(k.Hash)
	case typeArgon2i, typeArgon2id:
		if k.Lanes > math.MaxUint8 {
			err = fmt.Errorf("%w: %s with %d lanes", ErrUnsupported, k.Type, k.Lanes)
		}
	default:
		err = fmt.Errorf("%w: key derivation %q", ErrUnsupported, k.Type)
	}
	return out, err
}
