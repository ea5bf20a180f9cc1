package luks_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
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
		data := must.Get(os.ReadFile(luksFormat(f, 18<<20, args...)))(f)
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
		// A valid checksum lets the fuzzer reach the JSON area.
		if len(data) >= luks2Size && binary.BigEndian.Uint64(data[8:]) == luks2Size {
			data = bytes.Clone(data)
			checksum(data, 0)
			fuzzed(t, data)
		}
	})
}

// FuzzMetadata fuzzes only the JSON area.
func FuzzMetadata(f *testing.F) {
	text := must.Get(json.Marshal(metadata()))(f)
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

// largestCopy is the size of the largest copy of LUKS2's metadata.
const largestCopy = 4 << 20

// allocated returns the number of bytes that this process has allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzUnlock tries a passphrase on every usable header: Unlock ends soon after its
// context, and never returns a key for an invented header.
func FuzzUnlock(f *testing.F) {
	f.Add(synthetic()[:8*512+64*4000])
	f.Add(assemble(metadata()))
	for _, data := range realHeaders(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= luks2Size && binary.BigEndian.Uint64(data[8:]) == luks2Size {
			data = bytes.Clone(data)
			checksum(data, 0)
		}
		h, err := luks.ReadHeader(bytes.NewReader(data))
		if err != nil || h.Usable() != nil {
			return
		}
		const allowed = 20 * time.Millisecond
		ctx, cancel := context.WithTimeout(context.Background(), allowed)
		defer cancel()
		begin := time.Now()
		key, err := luks.Unlocker{MaxMemory: 1 << 20}.Unlock(ctx, h, []byte("fuzz"))
		if took := time.Since(begin); took > allowed+5*time.Second {
			t.Errorf("unlocking took %v", took)
		}
		if err == nil {
			// A digest of 20 bytes does not match by chance.
			t.Errorf("a key of %d bytes from a passphrase that was never set", key.Len())
			key.Wipe()
		}
	})
}

// fuzzed checks the invariants of every header that ReadHeader returns.
func fuzzed(t *testing.T, data []byte) {
	t.Helper()
	before := allocated()
	h, err := luks.ReadHeader(bytes.NewReader(data))
	// For LUKS2 both copies are read, and their JSON of up to 4 MiB each is
	// decoded into values of several times that size.
	if n, limit := allocated()-before, uint64(1<<20+16*min(len(data), 2*largestCopy)); n > limit {
		t.Errorf("%d bytes were allocated for a header of %d", n, len(data))
	}
	if err != nil {
		if h != nil || !errors.Is(err, luks.ErrNotLUKS) && !errors.Is(err, luks.ErrUnsupported) && !errors.Is(err, luks.ErrDamaged) && !errors.Is(err, luks.ErrReencryption) && !errors.Is(err, luks.ErrIncomplete) {
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
	backup := must.Get(luks.ReadBackup(bytes.NewReader(data)))(t)
	if c, err := backup.Compare(bytes.NewReader(data)); err != nil || c.Match != luks.MatchIntact {
		t.Errorf("compared with itself: %+v, %v", c, err)
	}
	for _, image := range [][]byte{synthetic(), assemble(metadata())} {
		other := must.Get(luks.ReadBackup(bytes.NewReader(image)))(t)
		if c, err := other.Compare(bytes.NewReader(data)); err != nil || c.Match == "" {
			t.Errorf("compared with another: %+v, %v", c, err)
		}
	}
	marked := must.Get(luks.Incomplete(data))(t)
	if _, err := luks.ReadHeader(bytes.NewReader(marked)); !errors.Is(err, luks.ErrIncomplete) {
		t.Errorf("marked: %v", err)
	}
	if same := must.Get(luks.ReadIncomplete(bytes.NewReader(marked)))(t); !same.Incomplete || same.UUID != h.UUID || same.String() != h.String() {
		t.Errorf("marked: %v, before: %v", same, h)
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
