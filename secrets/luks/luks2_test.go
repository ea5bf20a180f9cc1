package luks_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

type dict = map[string]any

const (
	luks2Size = 0x4000                    // bytes of one copy
	luks2End  = 2*luks2Size + 2*64*4000*2 // end of the area for key slots: more than two need
)

// metadata returns a JSON area of a usable LUKS2 volume.
func metadata() dict {
	b64 := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	slot := func(offset int) dict {
		return dict{
			"type": "luks2", "key_size": 64,
			"af":   dict{"type": "luks1", "stripes": 4000, "hash": "sha256"},
			"area": dict{"type": "raw", "offset": fmt.Sprint(offset), "size": "256000", "encryption": "aes-xts-plain64", "key_size": 64},
			"kdf":  dict{"type": "pbkdf2", "salt": b64(32), "hash": "sha256", "iterations": 1000},
		}
	}
	second := slot(2*luks2Size + 256000)
	second["kdf"] = dict{"type": "argon2id", "salt": b64(32), "time": 1, "memory": 32, "cpus": 1}
	return dict{
		"keyslots": dict{"0": slot(2 * luks2Size), "1": second},
		"tokens":   dict{},
		"segments": dict{"0": dict{"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 512}},
		"digests":  dict{"0": dict{"type": "pbkdf2", "keyslots": []any{"0", "1"}, "segments": []any{"0"}, "hash": "sha256", "iterations": 1000, "salt": b64(32), "digest": b64(32)}},
		"config":   dict{"json_size": fmt.Sprint(luks2Size - 4096), "keyslots_size": fmt.Sprint(luks2End - 2*luks2Size)},
	}
}

// assemble returns both copies of a header with this JSON area, and space for key
// material.
func assemble(meta dict) []byte {
	b := make([]byte, luks2End)
	for _, off := range []int{0, luks2Size} {
		c := b[off:]
		copy(c, map[bool]string{true: "LUKS\xba\xbe\x00\x02", false: "SKUL\xba\xbe\x00\x02"}[off == 0])
		binary.BigEndian.PutUint64(c[8:], luks2Size)
		binary.BigEndian.PutUint64(c[16:], 3)
		copy(c[24:], "a label")
		copy(c[72:], "sha256")
		copy(c[168:], "7b00deeb-aa62-4a82-9a97-64755a11c2a3")
		binary.BigEndian.PutUint64(c[256:], uint64(off))
	}
	return withJSON(b, meta)
}

// withJSON replaces the JSON area of both copies.
func withJSON(b []byte, meta any) []byte {
	text, err := json.Marshal(meta)
	if err != nil {
		panic(err)
	}
	return withArea(b, text)
}

func withArea(b, text []byte) []byte {
	size := int(binary.BigEndian.Uint64(b[8:]))
	for _, off := range []int{0, size} {
		area := b[off+4096 : off+size]
		clear(area)
		copy(area, text)
		checksum(b, off)
	}
	return b
}

// checksum recomputes the checksum of the copy at off.
func checksum(b []byte, off int) {
	size := int(binary.BigEndian.Uint64(b[off+8:]))
	clear(b[off+448 : off+512])
	sum := sha256.Sum256(b[off : off+size])
	copy(b[off+448:], sum[:])
}

// at returns the object at a path like "keyslots.0.area".
func at(meta dict, path string) dict {
	for name := range strings.SplitSeq(path, ".") {
		meta = meta[name].(dict)
	}
	return meta
}

// set returns a function that sets one value, or removes it if value is nil.
func set(path, name string, value any) func(dict) {
	return func(meta dict) {
		o := meta
		if path != "" {
			o = at(meta, path)
		}
		if value == nil {
			delete(o, name)
			return
		}
		o[name] = value
	}
}

func changed(changes ...func(dict)) dict {
	meta := metadata()
	for _, change := range changes {
		change(meta)
	}
	return meta
}

func TestLUKS2(t *testing.T) {
	t.Parallel()
	h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(metadata()))))(t)
	if err := h.Usable(); err != nil {
		t.Error(err)
	}
	if got, want := h.String(), "LUKS2 aes-xts-plain64 pbkdf2 argon2id, 512-bit key, 2 key slots in use"; got != want {
		t.Error(got)
	}
	if h.PayloadOffset() != 16<<20 || !slices.Equal(h.ActiveSlots(), []int{0, 1}) || h.UUID != "7b00deeb-aa62-4a82-9a97-64755a11c2a3" {
		t.Errorf("%d %v %s", h.PayloadOffset(), h.ActiveSlots(), h.UUID)
	}
	l := h.LUKS2
	if l.Label != "a label" || l.Size != luks2Size || l.SequenceID != 3 || l.Offset != 0 || l.OtherCopy != nil {
		t.Errorf("%+v", l)
	}
	if s := l.KeySlots[1]; s.KDF.Time != 1 || s.KDF.Memory != 32 || s.KDF.Lanes != 1 || s.Priority != luks.PriorityNormal || s.KeyBytes != 64 || s.AFHash != "sha256" {
		t.Errorf("%+v", s)
	}
}

// ReadHeader returns the newer intact copy.
func TestCopiesOfLUKS2(t *testing.T) {
	t.Parallel()
	older, newer := metadata(), changed(set("segments.0", "offset", "33554432"))
	// mixed returns a header whose copies have these sequence numbers; 0 means
	// a wrong checksum.
	mixed := func(first, second int) []byte {
		b := assemble(older)
		copy(b[luks2Size:2*luks2Size], assemble(newer)[luks2Size:])
		for off, number := range map[int]int{0: first, luks2Size: second} {
			binary.BigEndian.PutUint64(b[off+16:], uint64(number))
			checksum(b, off)
			if number == 0 {
				b[off+5000] ^= 1
			}
		}
		return b
	}
	for name, test := range map[string]struct {
		data   []byte
		second bool
		other  string
	}{
		"same":             {mixed(3, 3), false, ""},
		"first is newer":   {mixed(4, 3), false, "older"},
		"second is newer":  {mixed(3, 4), true, "older"},
		"first damaged":    {mixed(0, 3), true, "checksum"},
		"second damaged":   {mixed(3, 0), false, "checksum"},
		"huge numbers":     {mixed(1<<62, 1<<62+1), true, "older"},
		"no second magic":  {overwrite(mixed(3, 4), luks2Size, "XXXX"), false, "no copy"},
		"size of first":    {overwrite(mixed(4, 3), 8, "\x00\x00\x00\x00\x00\x00\x41\x00"), true, "16640 bytes"},
		"huge first":       {overwrite(mixed(4, 3), 8, "\xff\xff\xff\xff\xff\xff\x40\x00"), true, "bytes"},
		"first misplaced":  {overwrite(mixed(4, 3), 256, "\x00\x00\x00\x00\x00\x00\x40\x00"), true, "has the offset"},
		"second misplaced": {overwrite(mixed(3, 4), luks2Size+256, "\x00\x00\x00\x00\x00\x00\x80\x00"), false, "has the offset"},
		"second's size":    {overwrite(mixed(3, 4), luks2Size+8, "\x00\x00\x00\x00\x00\x00\x80\x00"), false, "cannot be at offset"},
		"checksum by md5":  {overwrite(mixed(4, 3), 72, "md5\x00\x00\x00"), true, `hash "md5"`},
	} {
		h, err := luks.ReadHeader(bytes.NewReader(test.data))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if second := h.LUKS2.Offset != 0; second != test.second || second != (h.PayloadOffset() == 33554432) {
			t.Errorf("%s: the copy at %d was taken", name, h.LUKS2.Offset)
		}
		if other := h.LUKS2.OtherCopy; (other == nil) != (test.other == "") || other != nil && !strings.Contains(other.Error(), test.other) {
			t.Errorf("%s: the other copy: %v", name, other)
		}
	}
	for name, data := range map[string][]byte{
		"both damaged":     mixed(0, 0),
		"no second":        overwrite(mixed(0, 3), luks2Size, "XXXX"),
		"size, no second":  overwrite(overwrite(mixed(3, 3), 8, "\x00"+strings.Repeat("\xff", 7)), luks2Size, "XXXX"),
		"first magic gone": overwrite(mixed(3, 3), 0, "XXXX"),
		"binary header":    mixed(3, 3)[:4095],
		"JSON area":        mixed(3, 3)[:luks2Size-1],
	} {
		if h, err := luks.ReadHeader(bytes.NewReader(data)); h != nil || !errors.Is(err, luks.ErrDamaged) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	if _, err := luks.ReadHeader(bytes.NewReader(make([]byte, 1<<20))); !errors.Is(err, luks.ErrNotLUKS) {
		t.Error(err)
	}
}

func overwrite(b []byte, off int, value string) []byte {
	b = bytes.Clone(b)
	copy(b[off:], value)
	return b
}

// A text field without terminating NUL, in a copy with a valid checksum.
func TestEndlessTextsInLUKS2(t *testing.T) {
	t.Parallel()
	for name, field := range map[string][2]int{"label": {24, 48}, "UUID": {168, 40}, "subsystem": {208, 48}, "checksum": {72, 32}} {
		b := assemble(metadata())
		for _, off := range []int{0, luks2Size} {
			copy(b[off+field[0]:], strings.Repeat("x", field[1]))
			checksum(b, off)
		}
		if _, err := luks.ReadHeader(bytes.NewReader(b)); !errors.Is(err, luks.ErrDamaged) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDamagedJSON(t *testing.T) {
	t.Parallel()
	b64 := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	const slot, segment, digest = "keyslots.0", "segments.0", "digests.0"
	for name, test := range map[string]struct {
		change func(dict)
		says   string
	}{
		"no config":            {set("", "config", nil), "config is missing"},
		"list of slots":        {set("", "keyslots", []any{}), "keyslots has the wrong type"},
		"null slots":           {set("", "keyslots", json.RawMessage("null")), "keyslots has the wrong type"},
		"other case":           {func(m dict) { m["Segments"] = m["segments"]; delete(m, "segments") }, "segments is missing"},
		"slot 32":              {set("keyslots", "32", dict{"type": "luks2"}), `"32"`},
		"slot 00":              {set("keyslots", "00", dict{"type": "luks2"}), `"00"`},
		"slot -1":              {set("keyslots", "-1", dict{"type": "luks2"}), `"-1"`},
		"json_size":            {set("config", "json_size", "12289"), "json_size"},
		"json_size, number":    {set("config", "json_size", luks2Size-4096), "json_size has the wrong type"},
		"keyslots_size":        {set("config", "keyslots_size", "18446744073709551615"), "larger than any device"},
		"keyslots_size, sign":  {set("config", "keyslots_size", "-1"), "a number is needed"},
		"keyslots_size, small": {set("config", "keyslots_size", "511999"), "not in its area"},
		"requirements":         {set("config", "requirements", []any{"x"}), "wrong type"},
		"requirement null":     {set("config", "requirements", dict{"mandatory": []any{nil}}), "null"},
		"requirement 1":        {set("config", "requirements", dict{"mandatory": []any{1}}), "elements of the wrong type"},
		"priority":             {set(slot, "priority", 3), "keyslots.0.priority"},
		"no key":               {set(slot, "key_size", 0), "key_size is 0"},
		"huge key":             {set(slot, "key_size", 513), "key_size is 513"},
		"fraction of a key":    {set(slot, "key_size", 64.5), "whole number"},
		"key of 2^32":          {set(slot, "key_size", 1<<32+64), "whole number"},
		"key longer than area": {set(slot, "key_size", 65), "needs 260096"},
		"area in the header":   {set(slot+".area", "offset", "32767"), "not in its area"},
		"area outside":         {set(slot+".area", "offset", fmt.Sprint(luks2End-256000+1)), "not in its area"},
		"area far outside":     {set(slot+".area", "offset", "2305843009213693951"), "not in its area"},
		"huge area":            {set(slot+".area", "size", "2305843009213693951"), "not in its area"},
		"small area":           {set(slot+".area", "size", "255999"), "needs 256000"},
		"areas overlap":        {set(slot+".area", "size", "256001"), "overlaps"},
		"area key":             {set(slot+".area", "key_size", 0), "area.key_size"},
		"no area":              {set(slot, "area", nil), "keyslots.0.area is missing"},
		"no kdf":               {set(slot, "kdf", nil), "kdf is missing"},
		"no iterations":        {set(slot+".kdf", "iterations", 0), "iterations is 0"},
		"no salt":              {set(slot+".kdf", "salt", ""), "salt is not base64"},
		"no time":              {set("keyslots.1.kdf", "time", 0), "time is 0"},
		"no memory":            {set("keyslots.1.kdf", "memory", 0), "memory is 0"},
		"no lanes":             {set("keyslots.1.kdf", "cpus", 0), "cpus is 0"},
		"odd salt":             {set(slot+".kdf", "salt", "AAA"), "salt is not base64"},
		"offset inside":        {set(segment, "offset", fmt.Sprint(luks2End-512)), "inside the header"},
		"odd offset":           {set(segment, "offset", "16777217"), "multiple of 512"},
		"odd size":             {set(segment, "size", "513"), "size is"},
		"size 0":               {set(segment, "size", "0"), "size is"},
		"sector size":          {set(segment, "sector_size", 8192), "sector_size is 8192"},
		"no sector size":       {set(segment, "sector_size", nil), "sector_size is missing"},
		"no tweak":             {set(segment, "iv_tweak", nil), "iv_tweak is missing"},
		"tweak":                {set(segment, "iv_tweak", "1e3"), "iv_tweak"},
		"digest too short":     {set(digest, "digest", b64(19)), "19 bytes"},
		"digest too long":      {set(digest, "digest", b64(65)), "65 bytes"},
		"digest iterations":    {set(digest, "iterations", 0), "iterations is 0"},
		"digest of no slot":    {set(digest, "keyslots", []any{"7"}), "key slot 7, which does not exist"},
		"digest of no segment": {set(digest, "segments", []any{"7"}), "segment 7, which does not exist"},
		"digest of a name":     {set(digest, "segments", []any{"x"}), `"x"`},
	} {
		_, err := luks.ReadHeader(bytes.NewReader(assemble(changed(test.change))))
		if !errors.Is(err, luks.ErrDamaged) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; should say %q", name, err, test.says)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "null": "null", "a list": "[]", "half": `{"config":`, "two": "{} {}", "garbage behind": "{}\x00x",
		"deep": strings.Repeat("[", 12000),
	} {
		if _, err := luks.ReadHeader(bytes.NewReader(withArea(assemble(metadata()), []byte(text)))); !errors.Is(err, luks.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := assemble(metadata())
	if _, err := luks.ReadHeader(bytes.NewReader(b[:2*luks2Size+512000-1])); !errors.Is(err, luks.ErrDamaged) || !strings.Contains(err.Error(), "cut off") {
		t.Error(err)
	}
}

// Everything that is refused, by name: when the header is read, or when it is to be
// used.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const slot, segment, digest = "keyslots.0", "segments.0", "digests.0"
	linear := dict{"type": "linear", "offset": "0", "size": "dynamic"}
	other := dict{"type": "crypt", "offset": "33554432", "size": "512", "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 512}
	only := func(change func(dict)) func(dict) { // without the second key slot
		return func(m dict) {
			delete(m["keyslots"].(dict), "1")
			at(m, digest)["keyslots"] = []any{"0"}
			change(m)
		}
	}
	for name, test := range map[string]struct {
		change func(dict)
		says   string
	}{
		"sector size":     {set(segment, "sector_size", 4096), "sectors of 4096 bytes: QEMU's LUKS driver counts sectors of 512 and would decrypt only some of them right. While nothing uses the volume, re-encrypt it with `cryptsetup reencrypt --sector-size 512`; or open it"},
		"tweak":           {set(segment, "iv_tweak", "8"), "from 8 (iv_tweak)"},
		"two segments":    {set("segments", "1", other), "2 segments"},
		"no segment":      {func(m dict) { m["segments"] = dict{}; at(m, digest)["segments"] = []any{} }, "0 segments"},
		"linear":          {set("segments", "0", linear), `type "linear"`},
		"segment's flags": {set(segment, "flags", []any{"backup-final"}), "backup-final"},
		"segment's size":  {set(segment, "size", "1048576"), "ends after 1048576 bytes"},
		"integrity":       {set(segment, "integrity", dict{"type": "hmac(sha256)"}), "integrity"},
		"reencrypt slot":  {set("keyslots", "2", dict{"type": "reencrypt", "key_size": 1}), "reencryption is in progress (key slot 2)"},
		"reencrypting":    {set("config", "requirements", dict{"mandatory": []any{"online-reencrypt-v2"}}), `reencryption is in progress (requirement "online-reencrypt-v2")`},
		"requirement":     {set("config", "requirements", dict{"mandatory": []any{"opal"}}), `requirement "opal"`},
		"serpent":         {set(segment, "encryption", "serpent-xts-plain64"), `cipher "serpent"`},
		"camellia":        {set(segment, "encryption", "camellia-xts-plain64"), `cipher "camellia"`},
		"crypto API":      {set(segment, "encryption", "capi:xts(aes)-plain64"), "capi:xts(aes)"},
		"ctr":             {set(segment, "encryption", "aes-ctr-plain64"), `mode "ctr"`},
		"null":            {set(segment, "encryption", "cipher_null-ecb"), `cipher "cipher_null"`},
		"benbi":           {set(segment, "encryption", "aes-xts-benbi"), `vector "benbi"`},
		"xts with essiv":  {set(segment, "encryption", "aes-xts-essiv:sha256"), `vector "essiv:sha256"`},
		"other essiv":     {set(segment, "encryption", "aes-cbc-essiv:sha1"), `vector "essiv:sha1"`},
		"no cipher":       {set(segment, "encryption", ""), `cipher ""`},
		"key size":        {set(segment, "encryption", "aes-cbc-plain64"), "aes-cbc-plain64 with a key of 512 bits"},
		// QEMU would abort at the ephemeral header.
		"key of 24 bytes": {func(m dict) {
			at(m, segment)["encryption"] = "twofish-cbc-essiv:sha256"
			at(m, slot)["key_size"], at(m, "keyslots.1")["key_size"] = 24, 24
		}, "twofish-cbc-essiv:sha256 with a key of 192 bits"},
		"digest type":       {set(digest, "type", "other"), `digest 0 is of type "other"`},
		"digest hash":       {set(digest, "hash", "whirlpool"), `hash "whirlpool"`},
		"slot type":         {only(set(slot, "type", "other")), `key slot 0: unsupported LUKS header: type "other"`},
		"slot cipher":       {only(set(slot+".area", "encryption", "serpent-xts-plain64")), `key slot 0: unsupported LUKS header: cipher "serpent"`},
		"slot key size":     {only(set(slot+".area", "key_size", 24)), "192 bits"},
		"splitter's hash":   {only(set(slot+".af", "hash", "sm3")), `hash "sm3"`},
		"derivation":        {only(set(slot+".kdf", "type", "scrypt")), `key derivation "scrypt"`},
		"derivation's hash": {only(set(slot+".kdf", "hash", "sm3")), `hash "sm3"`},
		"lanes": {only(func(m dict) {
			at(m, slot)["kdf"] = dict{"type": "argon2i", "time": 1, "memory": 32, "cpus": 256, "salt": "AAAA"}
		}), "256 lanes"},
		"stripes":           {set(slot+".af", "stripes", 3999), "stripes is 3999"},
		"splitter":          {set(slot+".af", "type", "luks2"), "af.type"},
		"area":              {set(slot+".area", "type", "journal"), "area.type"},
		"payload too early": {func(m dict) { at(m, segment)["offset"] = fmt.Sprint(luks2End) }, "too early"},
		"payload too far":   {set(segment, "offset", fmt.Sprint(int64(1)<<41)), "payload begins at byte 2199023255552"},
	} {
		h, err := luks.ReadHeader(bytes.NewReader(assemble(changed(test.change))))
		if err == nil {
			err = h.Usable()
			if _, unlockErr := h.Unlock(t.Context(), []byte("x")); err == nil || unlockErr == nil || !strings.HasSuffix(unlockErr.Error(), err.Error()) {
				t.Errorf("%s: %v, but Unlock says %v", name, err, unlockErr)
			}
		}
		if !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; should say %q", name, err, test.says)
		}
	}
	// What is no header at all, or of no use.
	for name, test := range map[string]struct {
		change func(dict)
		want   error
	}{
		"no slots":      {func(m dict) { m["keyslots"] = dict{}; at(m, digest)["keyslots"] = []any{} }, luks.ErrNoKeySlot},
		"unbound slots": {set(digest, "keyslots", []any{}), luks.ErrNoKeySlot},
		"no digest":     {set(digest, "segments", []any{}), luks.ErrDamaged},
		"two digests":   {func(m dict) { m["digests"].(dict)["1"] = m["digests"].(dict)["0"] }, luks.ErrDamaged},
		"two key sizes": {set("keyslots.1", "key_size", 32), luks.ErrDamaged},
	} {
		h, err := luks.ReadHeader(bytes.NewReader(assemble(changed(test.change))))
		if err != nil || !errors.Is(h.Usable(), test.want) {
			t.Errorf("%s: %v, %v", name, err, h.Usable())
		}
	}
}

func TestRefusalsOfLUKS1(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func([]byte){
		`cipher "serpent"`:                       func(b []byte) { copy(b[8:], "serpent") },
		`mode "ctr"`:                             func(b []byte) { copy(b[40:], "ctr-plain64") },
		`hash "sm3"`:                             func(b []byte) { copy(b[72:], "sm3\x00\x00\x00") },
		"aes-xts-plain64 with a key of 192 bits": func(b []byte) { binary.BigEndian.PutUint32(b[108:], 24) },
		// QEMU aborts at this one.
		"aes-cbc-plain64 with a key of 192 bits": func(b []byte) {
			copy(b[40:], "cbc-plain64")
			binary.BigEndian.PutUint32(b[108:], 24)
		},
	} {
		b := synthetic()
		change(b)
		h, err := luks.ReadHeader(bytes.NewReader(b))
		if err != nil {
			t.Errorf("%s: %v", says, err)
			continue
		}
		if err := h.Usable(); !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; should say %q", err, says)
		}
	}
	b := synthetic()
	binary.BigEndian.PutUint32(b[208:], 0x0000DEAD)
	h, err := luks.ReadHeader(bytes.NewReader(b))
	if err != nil || !errors.Is(h.Usable(), luks.ErrNoKeySlot) {
		t.Errorf("%v, %v", err, h.Usable())
	}
	if err := new(luks.Header).Usable(); !errors.Is(err, luks.ErrUnsupported) {
		t.Error(err)
	}
}

func TestHeadersOfCryptsetupLUKS2(t *testing.T) {
	t.Parallel()
	path := luksFormat(t, 20<<20, "--type", "luks2", "--pbkdf", "pbkdf2", "--sector-size", "512", "--label", "Größe", "--subsystem", "sub", "--luks2-metadata-size", "64k")
	h := open(t, path)
	uuid := strings.TrimSpace(run(t, "cryptsetup", "luksUUID", path))
	if h.Version != 2 || h.UUID != uuid || h.LUKS1 != nil || !slices.Equal(h.ActiveSlots(), []int{0}) || h.PayloadOffset() != 16<<20 {
		t.Errorf("%v, UUID %s instead of %s", h, h.UUID, uuid)
	}
	if l := h.LUKS2; l.Label != "Größe" || l.Subsystem != "sub" || l.Size != 64<<10 || l.OtherCopy != nil || l.SequenceID == 0 {
		t.Errorf("%+v", l)
	}
	if err := h.Usable(); err != nil {
		t.Error(err)
	}
	data := must.Get(os.ReadFile(path))(t)
	// The first sector is overwritten: cryptsetup can repair it, so not "no LUKS".
	clear(data[:512])
	if _, err := luks.ReadHeader(bytes.NewReader(data)); !errors.Is(err, luks.ErrDamaged) || !strings.Contains(err.Error(), "65536") {
		t.Error(err)
	}
}
