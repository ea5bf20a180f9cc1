package luks_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/luksplug/luksplug/secrets/luks"
)

func realHeaders(f *testing.F) [][]byte {
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		return nil
	}
	var headers [][]byte
	for _, args := range [][]string{
		{"--type", "luks1"},
		{"--type", "luks2", "--pbkdf", "pbkdf2", "--sector-size", "512"},
		{"--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32", "--pbkdf-parallel", "1", "--sector-size", "4096"},
	} {
		data, err := os.ReadFile(luksFormat(f, 18<<20, args...))
		if err != nil {
			f.Fatal(err)
		}
		headers = append(headers, data[:300_000])
	}
	return headers
}

func FuzzReadHeader(f *testing.F) {
	f.Add(synthetic()[:1024])
	f.Add(synthetic()[:8*512+64*4000])
	f.Add(assemble(metadata()))
	for _, data := range realHeaders(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzed(t, data)
		// A checksum that is right lets the fuzzer reach the JSON area.
		if len(data) >= luks2Size && binary.BigEndian.Uint64(data[8:]) == luks2Size {
			data = bytes.Clone(data)
			checksum(data, 0)
			fuzzed(t, data)
		}
	})
}

// FuzzMetadata changes the JSON area only.
func FuzzMetadata(f *testing.F) {
	text, err := json.Marshal(metadata())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, data := range realHeaders(f)[1:] {
		f.Add(bytes.TrimRight(data[4096:luks2Size], "\x00"))
	}
	base := assemble(metadata())
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) <= luks2Size-4096 {
			fuzzed(t, withArea(bytes.Clone(base), text))
		}
	})
}

// fuzzed checks what must hold for every header that was read.
func fuzzed(t *testing.T, data []byte) {
	t.Helper()
	h, err := luks.ReadHeader(bytes.NewReader(data))
	if err != nil {
		if h != nil || !errors.Is(err, luks.ErrNotLUKS) && !errors.Is(err, luks.ErrUnsupported) && !errors.Is(err, luks.ErrDamaged) {
			t.Errorf("%v, %v", h, err)
		}
		return
	}
	if !luks.HasMagic(data) || (h.Version == 1) == (h.LUKS1 == nil) || (h.Version == 2) == (h.LUKS2 == nil) {
		t.Fatalf("%v", h)
	}
	if h.LUKS1 != nil {
		for _, i := range h.ActiveSlots() {
			slot := h.LUKS1.Slots[i]
			if end := int64(slot.MaterialSectors)*luks.SectorSize + h.LUKS1.MaterialSize(); end > int64(len(data)) {
				t.Errorf("slot %d ends at %d of %d", i, end, len(data))
			}
		}
	}
	if err := h.Usable(); err != nil {
		if !errors.Is(err, luks.ErrUnsupported) && !errors.Is(err, luks.ErrDamaged) && !errors.Is(err, luks.ErrNoKeySlot) {
			t.Error(err)
		}
		return
	}
	if h.LUKS2 != nil && (len(h.LUKS2.Segments) != 1 || h.LUKS2.Segments[0].SectorSize != 512 || h.LUKS2.Segments[0].IVTweak != 0 || len(h.LUKS2.Requirements) != 0) {
		t.Errorf("usable: %+v", h.LUKS2)
	}
}
