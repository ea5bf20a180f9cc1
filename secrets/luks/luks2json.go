package luks

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
)

// The types of objects in the JSON area (LUKS2 On-Disk Format Specification 1.1,
// section 3) that this package uses.
const (
	typeLUKS2    = "luks2"     // key slot
	typeCrypt    = "crypt"     // segment
	typePBKDF2   = "pbkdf2"    // key derivation and digest
	typeArgon2i  = "argon2i"   // key derivation
	typeArgon2id = "argon2id"  // key derivation
	typeReencr   = "reencrypt" // key slot
)

// Limits on values in the JSON area.
const (
	maxLUKS2ID      = 31 // key slots and digests, as in cryptsetup
	maxLUKS2Token   = 31 // as in cryptsetup
	maxLUKS2Segment = 1 << 16
	minDigest       = 20 // of a volume converted from LUKS1
	maxDigest       = 64
)

// Priorities of key slots (section 3.2). Ignored slots are tried only if they are
// requested by number.
const (
	PriorityIgnore = 0
	PriorityNormal = 1
	PriorityPrefer = 2
)

// LUKS2KeySlot is a key slot. For types other than "luks2" only the type is
// read.
type LUKS2KeySlot struct {
	ID       int // 0..31
	Type     string
	Priority int // PriorityNormal if missing
	KeyBytes int // length of the key in it, 1..512

	// The anti-forensic splitter: always [Stripes].
	AFHash string

	// Location of the key material in bytes, and its encryption.
	Offset, Size int64
	Encryption   string // "aes-xts-plain64"
	AreaKeyBytes int    // length of the key derived from the passphrase, 1..512

	KDF KDF
}

// KDF has the parameters that derive a key from a passphrase.
type KDF struct {
	Type string // "pbkdf2", "argon2i" or "argon2id"; others are read without parameters
	Salt []byte

	// PBKDF2 (RFC 8018).
	Hash       string
	Iterations uint32 // at least 1

	// Argon2 (RFC 9106).
	Time   uint32 // passes over the memory, at least 1
	Memory uint32 // KiB, at least 1
	Lanes  uint32 // at least 1
}

// Segment is a range of the payload. For types other than "crypt" only the type
// and the flags are read.
type Segment struct {
	ID         int
	Type       string
	Flags      []string
	Offset     int64  // bytes, a multiple of 512
	Size       int64  // bytes; 0 means up to the end of the device
	IVTweak    uint64 // added to the sector number
	Encryption string // "aes-xts-plain64"
	SectorSize int    // bytes: 512, 1024, 2048 or 4096
	Integrity  bool   // has authentication tags
}

// Digest verifies the volume key of the key slots and segments that it
// lists.
type Digest struct {
	ID         int
	Type       string // for types other than "pbkdf2" only the lists are read
	KeySlots   []int
	Segments   []int
	Hash       string
	Iterations uint32 // at least 1
	Salt       []byte
	Digest     []byte // 20..64 bytes
}

// parseJSON parses the JSON area and checks the range of every number.
func (h *LUKS2) parseJSON(area []byte) error {
	data, rest, _ := bytes.Cut(area, []byte{0})
	if len(bytes.Trim(rest, "\x00")) != 0 {
		return fmt.Errorf("%w: data follows the JSON text in its area", ErrDamaged)
	}
	var d decoder
	root := d.root(data)

	config := root.object("config")
	if size := config.decimal("json_size"); d.err == nil && size != uint64(len(area)) {
		d.fail("config.json_size", "is %d: the area has %d bytes", size, len(area))
	}
	keySlotsStart := 2 * h.Size
	keySlotsEnd := keySlotsStart + config.offset("keyslots_size")
	if config.has("requirements") {
		if requirements := config.object("requirements"); requirements.has("mandatory") {
			h.Requirements = requirements.texts("mandatory")
		}
	}
	for id, o := range root.numbered("keyslots", maxLUKS2ID) {
		h.KeySlots = append(h.KeySlots, o.keySlot(id))
	}
	for id, o := range root.numbered("segments", maxLUKS2Segment) {
		h.Segments = append(h.Segments, o.segment(id))
	}
	for id, o := range root.numbered("digests", maxLUKS2ID) {
		h.Digests = append(h.Digests, o.digest(id))
	}
	if root.has("tokens") {
		tokens := root.object("tokens")
		for id, o := range root.numbered("tokens", maxLUKS2Token) {
			h.Tokens = append(h.Tokens, Token{ID: id, Type: o.text("type"), KeySlots: o.ids("keyslots"), JSON: tokens.fields[strconv.Itoa(id)]})
		}
	}
	if d.err != nil {
		return d.err
	}
	if err := h.checkAreas(keySlotsStart, keySlotsEnd); err != nil {
		return err
	}
	return h.checkReferences()
}

func (o object) keySlot(id int) LUKS2KeySlot {
	s := LUKS2KeySlot{ID: id, Type: o.text("type"), Priority: PriorityNormal}
	if s.Type != typeLUKS2 {
		return s
	}
	if o.has("priority") {
		if s.Priority = int(o.number("priority")); s.Priority > PriorityPrefer {
			o.d.fail(o.at("priority"), "is %d: 0 to %d are possible", s.Priority, PriorityPrefer)
		}
	}
	s.KeyBytes = o.keyBytes("key_size")

	af := o.object("af")
	if kind := af.text("type"); o.d.err == nil && kind != "luks1" {
		o.d.refuse(af.at("type"), "is %q: only luks1 is known", kind)
	}
	if stripes := af.number("stripes"); o.d.err == nil && stripes != Stripes {
		o.d.refuse(af.at("stripes"), "is %d: only %d are supported", stripes, Stripes)
	}
	s.AFHash = af.text("hash")

	area := o.object("area")
	if kind := area.text("type"); o.d.err == nil && kind != "raw" {
		o.d.refuse(area.at("type"), "is %q: only raw is known", kind)
	}
	s.Offset, s.Size = area.offset("offset"), area.offset("size")
	s.Encryption, s.AreaKeyBytes = area.text("encryption"), area.keyBytes("key_size")

	s.KDF = o.object("kdf").kdf()
	return s
}

func (o object) kdf() KDF {
	k := KDF{Type: o.text("type")}
	switch k.Type {
	case typePBKDF2:
		k.Hash, k.Iterations = o.text("hash"), o.positive("iterations")
	case typeArgon2i, typeArgon2id:
		k.Time, k.Memory, k.Lanes = o.positive("time"), o.positive("memory"), o.positive("cpus")
	default:
		return k
	}
	k.Salt = o.bytes("salt")
	return k
}

func (o object) segment(id int) Segment {
	s := Segment{ID: id, Type: o.text("type")}
	if o.has("flags") {
		s.Flags = o.texts("flags")
	}
	if s.Type != typeCrypt {
		return s
	}
	if s.Offset = o.offset("offset"); s.Offset%SectorSize != 0 {
		o.d.fail(o.at("offset"), "is %d: not a multiple of %d", s.Offset, SectorSize)
	}
	if size := o.text("size"); size != "dynamic" {
		if s.Size = o.offset("size"); s.Size == 0 || s.Size%SectorSize != 0 {
			o.d.fail(o.at("size"), "is %q: neither dynamic nor a number of sectors", size)
		}
	}
	s.IVTweak, s.Encryption, s.Integrity = o.decimal("iv_tweak"), o.text("encryption"), o.has("integrity")
	switch size := o.number("sector_size"); size {
	case 512, 1024, 2048, 4096:
		s.SectorSize = int(size)
	default:
		o.d.fail(o.at("sector_size"), "is %d: 512, 1024, 2048 or 4096 are possible", size)
	}
	return s
}

func (o object) digest(id int) Digest {
	g := Digest{ID: id, Type: o.text("type"), KeySlots: o.ids("keyslots"), Segments: o.ids("segments")}
	if g.Type != typePBKDF2 {
		return g
	}
	g.Hash, g.Iterations, g.Salt, g.Digest = o.text("hash"), o.positive("iterations"), o.bytes("salt"), o.bytes("digest")
	if n := len(g.Digest); o.d.err == nil && (n < minDigest || n > maxDigest) {
		// A short digest could match a wrong key.
		o.d.fail(o.at("digest"), "has %d bytes: %d to %d are possible", n, minDigest, maxDigest)
	}
	return g
}

// checkAreas checks the location of the key material: between the JSON areas and the
// payload, without overlapping slots.
func (h *LUKS2) checkAreas(start, end int64) error {
	var placed []LUKS2KeySlot
	for _, s := range h.KeySlots {
		if s.Type != typeLUKS2 {
			continue
		}
		need := sectors(s.KeyBytes*Stripes) * SectorSize
		switch {
		case s.Offset < start || s.Size > end-start || s.Offset > end-s.Size:
			return fmt.Errorf("%w: the key material of slot %d, %d bytes at %d, is not in its area, %d to %d", ErrDamaged, s.ID, s.Size, s.Offset, start, end)
		case s.Size < need:
			return fmt.Errorf("%w: key slot %d has %d bytes of key material: a key of %d bytes needs %d", ErrDamaged, s.ID, s.Size, s.KeyBytes, need)
		}
		for _, other := range placed {
			if s.Offset < other.Offset+other.Size && other.Offset < s.Offset+s.Size {
				return fmt.Errorf("%w: the key material of slots %d and %d overlaps", ErrDamaged, other.ID, s.ID)
			}
		}
		placed = append(placed, s)
	}
	for _, s := range h.Segments {
		// An offset of 0 means another file: no overlap is possible.
		if s.Type == typeCrypt && s.Offset != 0 && s.Offset < end {
			return fmt.Errorf("%w: segment %d begins at byte %d, inside the header, which ends at %d", ErrDamaged, s.ID, s.Offset, end)
		}
	}
	return nil
}

// checkReferences checks that digests refer to existing key slots and segments.
func (h *LUKS2) checkReferences() error {
	for _, g := range h.Digests {
		for _, id := range g.KeySlots {
			if !slices.ContainsFunc(h.KeySlots, func(s LUKS2KeySlot) bool { return s.ID == id }) {
				return fmt.Errorf("%w: digest %d is for key slot %d, which does not exist", ErrDamaged, g.ID, id)
			}
		}
		for _, id := range g.Segments {
			if !slices.ContainsFunc(h.Segments, func(s Segment) bool { return s.ID == id }) {
				return fmt.Errorf("%w: digest %d is for segment %d, which does not exist", ErrDamaged, g.ID, id)
			}
		}
	}
	return nil
}

// checkMaterial checks that the key material exists: the first sectors of a header
// that was truncated in copying are still valid.
func (h *LUKS2) checkMaterial(r io.ReaderAt) error {
	for _, s := range h.KeySlots {
		if s.Type != typeLUKS2 {
			continue
		}
		last := s.Offset + sectors(s.KeyBytes*Stripes)*SectorSize - 1
		b, err := read(r, last, 1)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return fmt.Errorf("%w: it is cut off: the key material of slot %d ends at byte %d", ErrDamaged, s.ID, last)
		}
	}
	return nil
}

// sectors returns the number of sectors that n bytes occupy.
func sectors(n int) int64 { return (int64(n) + SectorSize - 1) / SectorSize }

// numbered yields the members of the object name, whose keys are numbers up to limit,
// in ascending order.
func (o object) numbered(name string, limit int) func(yield func(int, object) bool) {
	return func(yield func(int, object) bool) {
		list := o.object(name)
		byID := map[int]string{}
		for key := range list.fields {
			id, err := strconv.Atoi(key)
			if err != nil || id < 0 || id > limit || strconv.Itoa(id) != key {
				list.d.fail(list.path, "has an element %q: 0 to %d are possible", key, limit)
				return
			}
			byID[id] = key
		}
		for _, id := range slices.Sorted(maps.Keys(byID)) {
			if !yield(id, list.object(byID[id])) {
				return
			}
		}
	}
}

// ids returns the list name of numbers that are written as strings.
func (o object) ids(name string) []int {
	var ids []int
	for _, text := range o.texts(name) {
		id, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			o.d.fail(o.at(name), "has an element %q: a number is needed", text)
			return nil
		}
		ids = append(ids, int(id))
	}
	return ids
}

func (o object) keyBytes(name string) int {
	n := o.number(name)
	if o.d.err == nil && (n == 0 || n > maxKeyBytes) {
		o.d.fail(o.at(name), "is %d: 1 to %d are possible", n, maxKeyBytes)
	}
	return int(n)
}

func (o object) positive(name string) uint32 {
	n := o.number(name)
	if o.d.err == nil && n == 0 {
		o.d.fail(o.at(name), "is 0")
	}
	return n
}

// offset returns the number of bytes name, which is so small that sums of a few do
// not overflow.
func (o object) offset(name string) int64 {
	n := o.decimal(name)
	if n > math.MaxInt64/4 {
		o.d.fail(o.at(name), "is %d: larger than any device", n)
		return 0
	}
	return int64(n)
}
