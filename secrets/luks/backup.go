package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Backup is a backup of the header of a volume, as `cryptsetup luksHeaderBackup` makes it,
// or another copy. It keeps no reader: [Backup.Compare] may read an image that cannot be
// open at the same time.
type Backup struct {
	// Header is the header. It cannot be unlocked.
	Header *Header

	luks1    []byte                    // the bytes of a LUKS1 header, without key material
	material map[int][sha256.Size]byte // of the key slots in use, by their numbers
}

// Match is how far an image has the volume of a backup.
type Match string

const (
	// MatchUnknown: of the header in the image nothing is left by which the volume can be
	// recognised, or only its UUID.
	MatchUnknown Match = "unknown"
	// MatchOther: the image has the header of another volume, or of the same volume with
	// another volume key, after a re-encryption.
	MatchOther Match = "other"
	// MatchDamaged: the image has the volume of the backup, and its header is damaged, or
	// its key slots were changed since.
	MatchDamaged Match = "damaged"
	// MatchIntact: the image has the volume of the backup, and its header can be read and
	// has all key slots of the backup.
	MatchIntact Match = "intact"
)

// Comparison is the result of [Backup.Compare].
type Comparison struct {
	Match Match
	// Reason tells by what the match was recognised, as the end of a sentence about the
	// image: "its UUID is ..., and that of the backup ...".
	Reason string
	// Damaged names the parts of the header that are not as in the backup: "the digest of
	// the volume key", "the key material of slot 0". With MatchIntact only one of the two
	// copies of LUKS2 metadata can be among them.
	Damaged []string
}

// ReadBackup reads a backup from the beginning of r. The errors are those of [ReadHeader].
func ReadBackup(r io.ReaderAt) (*Backup, error) {
	h, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	b := &Backup{Header: h, material: map[int][sha256.Size]byte{}}
	for _, slot := range h.ActiveSlots() {
		if b.material[slot], err = h.material(r, slot); err != nil {
			return nil, err
		}
	}
	if h.LUKS1 != nil {
		b.luks1, err = read(r, 0, luks1Size)
	}
	unopened := *h
	unopened.r = nil
	b.Header = &unopened
	return b, err
}

// material returns the checksum of a slot's key material in r, which may be cut off.
func (h *Header) material(r io.ReaderAt, slot int) (sum [sha256.Size]byte, err error) {
	at, length := int64(0), int64(0)
	if h.LUKS1 != nil {
		at, length = int64(h.LUKS1.Slots[slot].MaterialSectors)*SectorSize, h.LUKS1.MaterialSize()
	} else {
		i := slices.IndexFunc(h.LUKS2.KeySlots, func(s LUKS2KeySlot) bool { return s.ID == slot })
		at, length = h.LUKS2.KeySlots[i].Offset, int64(h.LUKS2.KeySlots[i].KeyBytes)*Stripes
	}
	b, err := read(r, at, int(length))
	return sha256.Sum256(b), err
}

// Compare compares the backup with the header in an image, which may be damaged or missing.
// r is read from the beginning, where the header belongs, as far as the header of the backup
// goes.
//
// A header in the image that can be read, with metadata whose checksum is right (LUKS2),
// decides. Without checksums (LUKS1) the volume is that of the backup if the digest of the
// volume key is the same, or the key material of a slot, which depends on the volume key; if
// neither is, a readable header is another one. Of a header that cannot be read, the key
// material, digest and UUID are compared that are still there.
//
// Anyone who can write the image can write such a header: the comparison finds mistakes.
// Errors are those of r, and wrap [ErrReencryption] for a LUKS1 volume in the middle of a
// re-encryption, of which no backup describes the data, and [ErrIncomplete].
func (b *Backup) Compare(r io.ReaderAt) (Comparison, error) {
	there, err := ReadHeader(r)
	switch {
	case errors.Is(err, ErrReencryption):
		return Comparison{}, err
	case errors.Is(err, ErrOverwritten):
		there, err = secondCopy(r)
	}
	if err != nil && !isVerdict(err) && !errors.Is(err, ErrNotLUKS) {
		return Comparison{}, err
	}
	p, err := b.compareParts(r, there)
	switch {
	case err != nil:
		return Comparison{}, err
	case there != nil && there.LUKS2 != nil:
		return b.compareLUKS2(there, p), nil
	case p.material:
		return p.matches("the key material of a slot is that of the backup", there), nil
	case p.digest:
		return p.matches("the digest of its volume key is that of the backup", there), nil
	case there != nil:
		return Comparison{Match: MatchOther, Reason: b.difference(there)}, nil
	}
	return b.compareUUID(r, p.damaged)
}

// secondCopy returns the second copy of a LUKS2 header whose beginning was overwritten.
func secondCopy(r io.ReaderAt) (*Header, error) {
	h, err := readLUKS2(r)
	if err != nil {
		return nil, err
	}
	h.LUKS2.OtherCopy = ErrOverwritten
	return h, nil
}

// parts are the results of comparing the parts of a header.
type parts struct {
	material, digest bool // one key material, or the digest of the volume key, is the same
	slots            bool // all key slots are the same
	damaged          []string
}

// matches returns the result for an image with the volume of the backup.
func (p parts) matches(reason string, there *Header) Comparison {
	c := Comparison{Match: MatchDamaged, Reason: reason, Damaged: p.damaged}
	if there == nil || !p.slots {
		return c
	}
	if there.LUKS2 != nil && !errors.Is(there.LUKS2.OtherCopy, ErrOverwritten) || len(p.damaged) == 0 {
		c.Match = MatchIntact
	}
	return c
}

// compareParts compares what is in the place of each part. there is the header in the
// image, nil if it cannot be read.
func (b *Backup) compareParts(r io.ReaderAt, there *Header) (parts, error) {
	p := parts{slots: true}
	if b.luks1 != nil {
		if err := b.compareLUKS1(r, &p); err != nil {
			return p, err
		}
	} else {
		p.damaged = append(p.damaged, copiesDamaged(there)...)
		p.digest = there != nil && there.identity().digest == b.Header.identity().digest
	}
	for _, slot := range b.Header.ActiveSlots() {
		if b.luks1 == nil && there != nil && !sameSlot(b.Header, there, slot) {
			p.slots = false
			p.damaged = append(p.damaged, fmt.Sprintf("key slot %d", slot))
			continue
		}
		sum, err := b.Header.material(r, slot)
		if err != nil {
			return p, err
		}
		if sum == b.material[slot] {
			p.material = true
			continue
		}
		p.slots = false
		p.damaged = append(p.damaged, fmt.Sprintf("the key material of slot %d", slot))
	}
	return p, nil
}

// luks1Parts are the fields of a LUKS1 header (LUKS On-Disk Format Specification, figure
// 1) before its key slots.
var luks1Parts = []struct {
	start, end int
	name       string
}{
	{0, 8, "the magic and version"}, {8, 104, "the cipher and hash"}, {104, 108, "the payload offset"}, {108, 112, "the key length"},
	{112, 168, "the digest of the volume key"}, {168, luks1Keys, "the UUID"},
}

// compareLUKS1 compares the fields of a LUKS1 header.
func (b *Backup) compareLUKS1(r io.ReaderAt, p *parts) error {
	stored, err := read(r, 0, luks1Size)
	if err != nil {
		return err
	}
	stored = append(stored, make([]byte, luks1Size-len(stored))...)
	same := func(start, end int) bool { return bytes.Equal(stored[start:end], b.luks1[start:end]) }
	for _, part := range luks1Parts {
		if !same(part.start, part.end) {
			p.damaged = append(p.damaged, part.name)
		}
	}
	p.digest = same(112, 168)
	for _, slot := range b.Header.ActiveSlots() {
		start := luks1Keys + slot*luks1KeySlot
		if !same(start, start+luks1KeySlot) {
			p.slots = false
			p.damaged = append(p.damaged, fmt.Sprintf("key slot %d", slot))
		}
	}
	return nil
}

// copiesDamaged names the copies of LUKS2 metadata that are damaged; nil for a header of
// LUKS1.
func copiesDamaged(there *Header) []string {
	first, second := "the first copy of the metadata", "the second copy of the metadata"
	switch {
	case there == nil:
		return []string{first, second}
	case there.LUKS2 == nil || there.LUKS2.OtherCopy == nil:
		return nil
	case there.LUKS2.Offset == 0:
		return []string{second}
	}
	return []string{first}
}

// sameSlot reports whether two headers have the same key slot.
func sameSlot(a, b *Header, slot int) bool {
	if a.LUKS2 == nil || b.LUKS2 == nil {
		return false
	}
	find := func(h *Header) *LUKS2KeySlot {
		for i := range h.LUKS2.KeySlots {
			if h.LUKS2.KeySlots[i].ID == slot {
				return &h.LUKS2.KeySlots[i]
			}
		}
		return nil
	}
	return reflect.DeepEqual(find(a), find(b))
}

// compareLUKS2 returns the result for an image with intact LUKS2 metadata.
func (b *Backup) compareLUKS2(there *Header, p parts) Comparison {
	if reason := b.difference(there); reason != "" {
		return Comparison{Match: MatchOther, Reason: reason}
	}
	return p.matches("its metadata, with the digest of the volume key, is that of the backup", there)
}

// compareUUID returns the result for an image whose header cannot be read, and that has
// neither key material nor digest of the backup.
func (b *Backup) compareUUID(r io.ReaderAt, damaged []string) (Comparison, error) {
	for _, at := range append([]int64{0}, luks2Sizes[:]...) {
		field, err := read(r, at+168, 40)
		if err != nil {
			return Comparison{}, err
		}
		found := string(bytes.TrimRight(field, "\x00"))
		if len(found) != uuidLength || uuid.Validate(found) != nil {
			continue
		}
		if !strings.EqualFold(found, b.Header.UUID) {
			return Comparison{Match: MatchOther, Reason: differs("UUID", found, b.Header.UUID)}, nil
		}
		return Comparison{Match: MatchUnknown, Reason: "only the UUID is that of the backup, which a re-encryption does not change", Damaged: damaged}, nil
	}
	return Comparison{Match: MatchUnknown, Reason: "nothing is left of a LUKS header", Damaged: damaged}, nil
}

func differs(what, found, want string) string {
	return fmt.Sprintf("its %s is %s, and that of the backup %s", what, found, want)
}

// difference returns how the header in an image is another one, "" if the volume is the
// same.
func (b *Backup) difference(there *Header) string {
	want, found := b.Header.identity(), there.identity()
	switch {
	case !strings.EqualFold(found.uuid, want.uuid):
		return differs("UUID", found.uuid, want.uuid)
	case found.layout != want.layout:
		return differs("encryption", found.layout, want.layout)
	case found.digest != want.digest:
		return "its volume key is another one than that of the backup: the volume was re-encrypted after the backup was made"
	}
	return ""
}

// identity is what a volume keeps as long as its volume key is the same.
type identity struct {
	uuid   string
	layout string // what is encrypted, how, and from where on
	digest string // of the volume key; no text
}

func (h *Header) identity() identity {
	id := identity{uuid: h.UUID}
	if h.LUKS1 != nil {
		id.layout = layout(Segment{Type: typeCrypt, Offset: h.PayloadOffset(), Encryption: h.LUKS1.Cipher + "-" + h.LUKS1.Mode, SectorSize: SectorSize})
		id.digest = digestText(h.LUKS1.DigestIterations, h.LUKS1.DigestSalt[:], h.LUKS1.Digest[:])
		return id
	}
	var layouts []string
	for _, s := range h.LUKS2.Segments {
		layouts = append(layouts, layout(s))
	}
	id.layout = strings.Join(layouts, " and ")
	for _, g := range h.LUKS2.Digests {
		if len(g.Segments) > 0 {
			id.digest += digestText(g.Iterations, g.Salt, g.Digest)
		}
	}
	return id
}

func layout(s Segment) string {
	if s.Type != typeCrypt {
		return fmt.Sprintf("%q", s.Type)
	}
	text := fmt.Sprintf("%s from byte %d in sectors of %d bytes", s.Encryption, s.Offset, s.SectorSize)
	if s.Size != 0 {
		text += fmt.Sprintf(", %d bytes", s.Size)
	}
	if s.IVTweak != 0 {
		text += fmt.Sprintf(", counted from %d", s.IVTweak)
	}
	if s.Integrity {
		text += ", with integrity"
	}
	return strings.Join(append([]string{text}, s.Flags...), ", ")
}

func digestText(iterations uint32, salt, digest []byte) string {
	b := binary.BigEndian.AppendUint32(nil, iterations)
	for _, part := range [][]byte{salt, digest} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return string(b)
}
