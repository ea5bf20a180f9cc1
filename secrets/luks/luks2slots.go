package luks

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// metadata are the metadata of a LUKS2 header, from the newer intact copy, in a form in which they can be changed: what
// this package does not know is kept.
type metadata struct {
	binary    []byte // the binary header, of luks2Size bytes
	area      []byte // the JSON area
	size      int64  // of a copy
	sequence  uint64
	differing error // why the other copy is not the same; nil if it is

	root, keySlots, digests, tokens map[string]json.RawMessage
}

// readMetadata reads the copy of the metadata that h is from. ReadHeader has checked it.
func readMetadata(r io.ReaderAt, h *Header) (*metadata, error) {
	l := h.LUKS2
	b, err := read(r, l.Offset, int(l.Size))
	if err != nil {
		return nil, err
	}
	if len(b) < int(l.Size) {
		return nil, fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	m := &metadata{binary: b[:luks2Size], area: b[luks2Size:], size: l.Size, sequence: l.SequenceID, differing: l.OtherCopy}
	if err := json.Unmarshal(jsonText(m.area), &m.root); err != nil {
		return nil, fmt.Errorf("%w: its JSON area: %w", ErrDamaged, err)
	}
	for name, to := range map[string]*map[string]json.RawMessage{"keyslots": &m.keySlots, "digests": &m.digests, "tokens": &m.tokens} {
		if raw, ok := m.root[name]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return nil, fmt.Errorf("%w: its JSON area: %s: %w", ErrDamaged, name, err)
			}
		}
	}
	return m, nil
}

// marshal returns the JSON text of a value without the escapes that are for web pages.
func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// put writes the changed members into the JSON area. The error wraps [ErrNoSpareSlot] if they have no room.
func (m *metadata) put() error {
	for name, members := range map[string]map[string]json.RawMessage{"keyslots": m.keySlots, "digests": m.digests, "tokens": m.tokens} {
		if members == nil {
			continue
		}
		raw, err := marshal(members)
		if err != nil {
			return err
		}
		m.root[name] = raw
	}
	text, err := marshal(m.root)
	if err != nil {
		return err
	}
	if len(text) >= len(m.area) { // it ends with a NUL
		return fmt.Errorf("%w: the JSON text would have %d bytes, and its area has %d", ErrNoSpareSlot, len(text), len(m.area))
	}
	m.area = make([]byte, len(m.area))
	copy(m.area, text)
	return nil
}

// change makes both copies equal, and then writes the changed metadata, as the next in sequence, to one and then the other.
func (m *metadata) change(s Storage) error {
	if err := m.equalise(s); err != nil {
		return err
	}
	if err := m.put(); err != nil {
		return err
	}
	m.sequence++
	for _, off := range []int64{0, m.size} {
		if err := m.write(s, off); err != nil {
			return err
		}
	}
	return nil
}

// equalise writes the intact or newer copy over the other one, if they differ.
func (m *metadata) equalise(s Storage) error {
	if m.differing == nil {
		return nil
	}
	from := int64(binary.BigEndian.Uint64(m.binary[256:]))
	if err := m.write(s, m.size-from); err != nil {
		return fmt.Errorf("repair a copy of the metadata: %w", err)
	}
	m.differing = nil
	return nil
}

// write writes the copy that belongs at off.
func (m *metadata) write(s Storage, off int64) error {
	b := slices.Concat(m.binary, m.area)
	copy(b, magic)
	if off != 0 {
		copy(b, secondaryMagic)
	}
	binary.BigEndian.PutUint64(b[16:], m.sequence)
	copy(b[104:168], randomBytes(64)) // so that the copies differ in every block
	binary.BigEndian.PutUint64(b[256:], uint64(off))
	clear(b[luks2Checksum:][:64])
	sum, err := checksumOf(b[:luks2Size], b[luks2Size:])
	if err != nil {
		return err
	}
	copy(b[luks2Checksum:], sum)
	return store(s, b, off)
}

// spare completes p by a free number and a free area.
func (m *metadata) spare(r io.ReaderAt, p place) (place, error) {
	for p.number = 0; ; p.number++ {
		if p.number > maxLUKS2ID {
			return place{}, fmt.Errorf("%w: all %d are in use", ErrNoSpareSlot, maxLUKS2ID+1)
		}
		if _, taken := m.keySlots[strconv.Itoa(p.number)]; !taken {
			break
		}
	}
	var err error
	if p.offset, err = m.gap(p.size); err != nil {
		return place{}, err
	}
	there, err := exists(r, p.offset+p.size)
	if err == nil && !there {
		err = fmt.Errorf("%w: it is cut off before byte %d", ErrNoSpareSlot, p.offset+p.size)
	}
	return p, err
}

// area is a range for key material, in bytes.
type area struct{ start, end int64 }

// gap returns the offset of the first free area of size bytes.
func (m *metadata) gap(size int64) (int64, error) {
	var d decoder
	root := d.root(jsonText(m.area))
	at := 2 * m.size
	end := at + root.object("config").offset("keyslots_size")
	slots := root.object("keyslots")
	var taken []area
	for number := range m.keySlots {
		s := slots.object(number)
		if !s.has("area") {
			continue
		}
		if a := s.object("area"); a.has("offset") && a.has("size") {
			start := a.offset("offset")
			taken = append(taken, area{start, start + a.offset("size")})
		}
	}
	if d.err != nil {
		return 0, d.err
	}
	slices.SortFunc(taken, func(a, b area) int { return int(a.start - b.start) })
	for _, t := range append(taken, area{end, end}) {
		if t.start-at >= size {
			return at, nil
		}
		at = max(at, (t.end+luks2Align-1)/luks2Align*luks2Align)
	}
	return 0, fmt.Errorf("%w: its area for key material has no room for %d bytes", ErrNoSpareSlot, size)
}

// jsonText returns the JSON text in its area.
func jsonText(area []byte) []byte {
	text, _, _ := bytes.Cut(area, []byte{0})
	return text
}

// writeLUKS2Key writes a new key slot. It counts with the first copy of the metadata.
func writeLUKS2Key(s Storage, h *Header, p place, material []byte, cost KDF) error {
	m, err := readMetadata(s, h)
	if err != nil {
		return err
	}
	decimal := func(n int64) string { return strconv.FormatInt(n, 10) }
	raw, err := marshal(json2KeySlot{
		Type: typeLUKS2, KeySize: p.keyBytes,
		AF:   json2AF{Type: "luks1", Stripes: Stripes, Hash: p.af.name},
		Area: json2Material{Type: "raw", Offset: decimal(p.offset), Size: decimal(p.size), Encryption: p.encryption.String(), KeySize: p.areaKeyBytes},
		KDF:  json2KDF{Type: cost.Type, Hash: cost.Hash, Iterations: cost.Iterations, Time: cost.Time, Memory: cost.Memory, Lanes: cost.Lanes, Salt: cost.Salt},
	})
	if err != nil {
		return err
	}
	number := strconv.Itoa(p.number)
	m.keySlots[number] = raw
	segment, err := h.LUKS2.segment()
	if err != nil {
		return err
	}
	digest, err := h.LUKS2.digestOf(segment)
	if err != nil {
		return err
	}
	if err := editList(m.digests, strconv.Itoa(digest.ID), func(list []string) []string { return append(list, number) }); err != nil {
		return err
	}
	if err := m.fits(); err != nil {
		return err
	}
	if err := store(s, material, p.offset); err != nil {
		return err
	}
	return m.change(s)
}

// fits returns an error that wraps [ErrNoSpareSlot] if the changed metadata have no room.
func (m *metadata) fits() error {
	tried := *m
	tried.root = maps.Clone(m.root)
	return tried.put()
}

// editList changes the list "keyslots" of one of the objects.
func editList(objects map[string]json.RawMessage, id string, edit func([]string) []string) error {
	var members map[string]json.RawMessage
	var list []string
	if err := json.Unmarshal(objects[id], &members); err != nil {
		return err
	}
	if raw, ok := members["keyslots"]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
	}
	raw, err := marshal(edit(list))
	if err != nil {
		return err
	}
	members["keyslots"] = raw
	objects[id], err = marshal(members)
	return err
}

// eraseLUKS2 wipes a key slot.
func eraseLUKS2(s Storage, h *Header, number int) error {
	m, err := readMetadata(s, h)
	if err != nil {
		return err
	}
	if err := m.unbind(strconv.Itoa(number)); err != nil {
		return err
	}
	if err := m.change(s); err != nil {
		return err
	}
	return m.scrub(s, h.LUKS2, number)
}

// unbind takes a key slot out of the lists of digests and tokens, and gives it a random salt.
func (m *metadata) unbind(number string) error {
	without := func(list []string) []string {
		out := []string{}
		for _, n := range list {
			if n != number {
				out = append(out, n)
			}
		}
		return out
	}
	for _, objects := range []map[string]json.RawMessage{m.digests, m.tokens} {
		for id, raw := range objects {
			if !listsSlot(raw, number) {
				continue
			}
			if err := editList(objects, id, without); err != nil {
				return err
			}
		}
	}
	var slot, kdf map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(m.keySlots[number], &slot), json.Unmarshal(slot["kdf"], &kdf)); err != nil {
		return err
	}
	var err error
	if kdf["salt"], err = marshal(randomBytes(slotSaltBytes)); err != nil {
		return err
	}
	if slot["kdf"], err = marshal(kdf); err != nil {
		return err
	}
	m.keySlots[number], err = marshal(slot)
	return err
}

// listsSlot reports whether a digest or token has the key slot in its list.
func listsSlot(raw json.RawMessage, number string) bool {
	var o struct {
		KeySlots []string `json:"keyslots"`
	}
	return json.Unmarshal(raw, &o) == nil && slices.Contains(o.KeySlots, number)
}

// scrub overwrites the key material of a key slot that no digest lists, and then removes the slot.
func (m *metadata) scrub(s Storage, l *LUKS2, number int) error {
	i := slices.IndexFunc(l.KeySlots, func(k LUKS2KeySlot) bool { return k.ID == number })
	if err := overwrite(s, l.KeySlots[i].Offset, l.KeySlots[i].Size); err != nil {
		return err
	}
	delete(m.keySlots, strconv.Itoa(number))
	return m.change(s)
}

func finishLUKS2(s Storage, h *Header) ([]int, error) {
	m, err := readMetadata(s, h)
	if err != nil {
		return nil, err
	}
	if err := m.equalise(s); err != nil {
		return nil, err
	}
	var numbers []int
	for _, k := range h.LUKS2.KeySlots {
		if k.Type != typeLUKS2 || slices.ContainsFunc(h.LUKS2.Digests, func(d Digest) bool { return slices.Contains(d.KeySlots, k.ID) }) {
			continue
		}
		if err := m.scrub(s, h.LUKS2, k.ID); err != nil {
			return nil, fmt.Errorf("key slot %d: %w", k.ID, err)
		}
		numbers = append(numbers, k.ID)
	}
	return numbers, nil
}
