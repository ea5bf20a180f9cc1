package luks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

const passphrase = "test passphrase" // run passes it on standard input

// dumpKey returns the volume key that cryptsetup finds.
func dumpKey(t testing.TB, path string) []byte { t.Helper(); return dumpKeyBy(t, path, "-") }

// dumpKeyBy is dumpKey with the passphrase in a file.
func dumpKeyBy(t testing.TB, path, passphraseFile string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "key")
	run(t, "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--volume-key-file", out, "--key-file", passphraseFile, path)
	key := must.Get(os.ReadFile(out))(t)
	return key
}

func open(t testing.TB, path string) *luks.Header {
	t.Helper()
	f := must.Get(os.Open(path))(t)
	t.Cleanup(func() { _ = f.Close() })
	h := must.Get(luks.ReadHeader(f))(t)
	return h
}

func unlock(t testing.TB, h *luks.Header, passphrase string) *luks.VolumeKey {
	t.Helper()
	key := must.Get(h.Unlock(t.Context(), []byte(passphrase)))(t)
	t.Cleanup(key.Wipe)
	return key
}

// sameKey checks that Unlock finds the same volume key as cryptsetup.
func sameKey(t *testing.T, path string) {
	t.Helper()
	h := open(t, path)
	must.OK(t, h.Usable())
	key := unlock(t, h, passphrase)
	if want := dumpKey(t, path); !bytes.Equal(must.Use(t, key), want) || key.Len() != len(want) {
		t.Errorf("%s: not the key that cryptsetup finds", h)
	}
	if _, err := h.Unlock(t.Context(), []byte("another")); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Errorf("%s: %v", h, err)
	}
	viaEphemeral(t, key)
	viaCryptsetup(t, key)
}

// viaCryptsetup checks that cryptsetup finds the same key in the ephemeral header.
func viaCryptsetup(t *testing.T, key *luks.VolumeKey) {
	t.Helper()
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	path := must.File(t, must.Use(t, e))
	if err := os.Truncate(path, max(key.PayloadOffset(), 4<<20)); err != nil { // room for all key slots
		t.Fatal(err)
	}
	if got := dumpKeyBy(t, path, must.File(t, must.Use(t, e.Passphrase()))); !bytes.Equal(got, must.Use(t, key)) {
		t.Errorf("%s: cryptsetup finds another key in the ephemeral header", key.Encryption())
	}
}

// viaEphemeral checks that the ephemeral header of a key holds the same key.
func viaEphemeral(t *testing.T, key *luks.VolumeKey) {
	t.Helper()
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	h := must.Get(luks.ReadHeader(bytes.NewReader(must.Use(t, e))))(t)
	again := unlock(t, h, string(must.Use(t, e.Passphrase())))
	if !bytes.Equal(must.Use(t, again), must.Use(t, key)) || again.Encryption() != key.Encryption() || again.PayloadOffset() != key.PayloadOffset() {
		t.Errorf("%s: %s at %d instead of %s at %d, or another key", h, again.Encryption(), again.PayloadOffset(), key.Encryption(), key.PayloadOffset())
	}
}

func TestUnlockAsCryptsetup(t *testing.T) {
	t.Parallel()
	argon := func(kind string, lanes, memory string) []string {
		return []string{"--type", "luks2", "--sector-size", "512", "--pbkdf", kind, "--pbkdf-force-iterations", "4", "--pbkdf-memory", memory, "--pbkdf-parallel", lanes}
	}
	luks2 := []string{"--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2"}
	cases := map[string][]string{
		"argon2i":      argon("argon2i", "1", "32"),
		"argon2id":     argon("argon2id", "1", "32"),
		"four lanes":   argon("argon2id", "4", "1027"),
		"argon2id cbc": append(argon("argon2id", "2", "64"), "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"),
	}
	for _, cipher := range []string{"aes-xts-plain", "aes-xts-plain64", "aes-cbc-plain", "aes-cbc-plain64", "aes-cbc-essiv:sha256"} {
		for _, bits := range []string{"128", "256", "512"} {
			if xts := strings.Contains(cipher, "xts"); xts && bits == "128" || !xts && bits == "512" {
				continue
			}
			cases["luks1 "+cipher+" "+bits] = []string{"--type", "luks1", "--cipher", cipher, "--key-size", bits}
		}
	}
	// One hash of each family: the others differ only in constants.
	for _, hash := range []string{"sha1", "sha384", "sha512", "ripemd160", "sha3-256", "blake2b-512", "blake2s-256"} {
		cases["luks1 "+hash] = []string{"--type", "luks1", "--hash", hash}
	}
	cases["luks2 aes-xts-plain64"] = luks2
	cases["luks2 aes-cbc-plain"] = slices.Concat(luks2, []string{"--cipher", "aes-cbc-plain", "--key-size", "128"})
	cases["luks2 sha512"] = slices.Concat(luks2, []string{"--hash", "sha512"})
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sameKey(t, luksFormat(t, 18<<20, args...))
		})
	}
}

// A volume converted from LUKS1 to LUKS2 keeps its digest of 20 bytes, and can be
// converted back.
func TestUnlockConverted(t *testing.T) {
	t.Parallel()
	path := luksFormat(t, 18<<20, "--type", "luks1")
	before := must.Use(t, unlock(t, open(t, path), passphrase))
	for _, kind := range []string{"luks2", "luks1"} {
		run(t, "cryptsetup", "convert", "-q", "--type", kind, path)
		if h := open(t, path); fmt.Sprintf("luks%d", h.Version) != kind {
			t.Error(h)
		}
		sameKey(t, path)
		if after := must.Use(t, unlock(t, open(t, path), passphrase)); !bytes.Equal(before, after) {
			t.Errorf("%s: another key", kind)
		}
	}
}

// addKey adds a key slot with another passphrase.
func addKey(t *testing.T, path, passphrase string, args ...string) {
	t.Helper()
	file := must.File(t, passphrase)
	// The default is Argon2, for which 1000 iterations would take too long.
	if !slices.Contains(args, "--pbkdf") {
		args = append(args, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	}
	run(t, "cryptsetup", slices.Concat([]string{"luksAddKey", "-q", "--key-file", "-"}, args, []string{path, file})...)
}

func TestSeveralKeySlots(t *testing.T) {
	t.Parallel()
	for name, format := range map[string][]string{
		"luks1": {"--type", "luks1", "--key-slot", "2"},
		"luks2": {"--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--key-slot", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := luksFormat(t, 18<<20, format...)
			addKey(t, path, "five", "--key-slot", "5")
			addKey(t, path, strings.Repeat("long ", 100), "--key-slot", "7") // longer than a block of the hash
			addKey(t, path, "\x00\xff\n", "--key-slot", "0")
			if name == "luks2" {
				addKey(t, path, "argon", "--key-slot", "9", "--pbkdf", "argon2id", "--pbkdf-memory", "32", "--pbkdf-force-iterations", "4")
				run(t, "cryptsetup", "config", "--key-slot", "5", "--priority", "prefer", path)
				run(t, "cryptsetup", "config", "--key-slot", "7", "--priority", "ignore", path)
			}
			want := dumpKey(t, path)
			h := open(t, path)
			for phrase, slot := range map[string]int{passphrase: 2, "five": 5, strings.Repeat("long ", 100): 7, "\x00\xff\n": 0, "argon": 9} {
				ignored := name == "luks2" && slot == 7
				key, err := h.Unlock(t.Context(), []byte(phrase))
				if slot == 9 && name == "luks1" || ignored {
					if !errors.Is(err, luks.ErrWrongPassphrase) {
						t.Errorf("slot %d: %v", slot, err)
					}
					if !ignored {
						continue
					}
					key, err = luks.Unlocker{Slots: []int{7}}.Unlock(t.Context(), h, []byte(phrase))
				}
				if err != nil {
					t.Errorf("slot %d: %v", slot, err)
					continue
				}
				if key.Slot() != slot || !bytes.Equal(must.Use(t, key), want) {
					t.Errorf("slot %d: slot %d, or another key", slot, key.Slot())
				}
				key.Wipe()
				if _, err := (luks.Unlocker{Slots: []int{slot + 1, 1}}).Unlock(t.Context(), h, []byte(phrase)); err == nil {
					t.Errorf("slot %d was opened against the order", slot)
				}
			}
			if _, err := (luks.Unlocker{Slots: []int{1}}).Unlock(t.Context(), h, []byte("x")); !errors.Is(err, luks.ErrNoKeySlot) {
				t.Error(err)
			}
		})
	}
}

// A key slot with another key than the segment's is not tried.
func TestUnboundKeySlot(t *testing.T) {
	t.Parallel()
	path := luksFormat(t, 18<<20, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2")
	addKey(t, path, "unbound", "--unbound", "--key-size", "256")
	sameKey(t, path)
	if _, err := open(t, path).Unlock(t.Context(), []byte("unbound")); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Error(err)
	}
}

// The remaining copy opens the volume.
func TestUnlockBySecondCopy(t *testing.T) {
	t.Parallel()
	path := luksFormat(t, 18<<20, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2")
	want := dumpKey(t, path)
	f := must.Get(os.OpenFile(path, os.O_RDWR, 0))(t)
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt([]byte("x"), 5000); err != nil {
		t.Fatal(err)
	}
	h := open(t, path)
	if h.LUKS2.OtherCopy == nil || h.LUKS2.Offset == 0 {
		t.Fatalf("%+v", h.LUKS2)
	}
	if !bytes.Equal(must.Use(t, unlock(t, h, passphrase)), want) {
		t.Error("another key")
	}
}

// An unsupported or unreadable key slot does not prevent opening another
// one.
func TestOtherKeySlotsAreTried(t *testing.T) {
	t.Parallel()
	path := luksFormat(t, 18<<20, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2")
	addKey(t, path, "second", "--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4")
	h := open(t, path)
	small := luks.Unlocker{MaxMemory: 1 << 20}
	if _, err := small.Unlock(t.Context(), h, []byte(passphrase)); err != nil {
		t.Error(err)
	}
	_, err := small.Unlock(t.Context(), h, []byte("second"))
	if !errors.Is(err, luks.ErrWrongPassphrase) || !strings.Contains(err.Error(), "key slot 1") || !strings.Contains(err.Error(), "64 MiB") {
		t.Error(err)
	}
	small.Slots = []int{1}
	if _, err := small.Unlock(t.Context(), h, []byte("second")); !errors.Is(err, luks.ErrUnsupported) {
		t.Error(err)
	}
	// The key material of the first cannot be read, that of the second can.
	data := must.Get(os.ReadFile(path))(t)
	broken := &gap{bytes.NewReader(data), h.LUKS2.KeySlots[0].Offset}
	if h, err = luks.ReadHeader(broken); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unlock(t.Context(), []byte("second")); err != nil {
		t.Error(err)
	}
	if _, err := h.Unlock(t.Context(), []byte(passphrase)); !errors.Is(err, iotest.ErrTimeout) || !strings.Contains(err.Error(), "key slot 0") {
		t.Error(err)
	}
}

// gap fails to read at one offset.
type gap struct {
	io.ReaderAt
	at int64
}

func (g *gap) ReadAt(b []byte, off int64) (int, error) {
	if off == g.at {
		return 0, iotest.ErrTimeout
	}
	return g.ReaderAt.ReadAt(b, off)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	pbkdf2 := changed(set("keyslots.0.kdf", "iterations", uint32(1<<32-1)), set("digests.0", "keyslots", []any{"0"}))
	argon2 := changed(set("keyslots.1", "kdf", dict{"type": "argon2id", "salt": "AAAA", "time": 8, "memory": 64 << 10, "cpus": 1}), set("digests.0", "keyslots", []any{"1"}))
	for name, meta := range map[string]dict{"pbkdf2": pbkdf2, "argon2": argon2} {
		h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(meta))))(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.Unlock(ctx, []byte("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Cancel while Unlock is working: at the first progress.
	h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(pbkdf2))))(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	u := luks.Unlocker{Progress: func(p luks.Progress) {
		if p.Done <= 0 || p.Total != 2*(1<<32-1) {
			t.Errorf("%+v", p)
		}
		cancel(io.ErrClosedPipe)
	}}
	if _, err := u.Unlock(ctx, h, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestProgressReachesTheEnd(t *testing.T) {
	t.Parallel()
	h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(metadata()))))(t)
	var last luks.Progress
	u := luks.Unlocker{Progress: func(p luks.Progress) {
		if p.Done <= last.Done || p.Done > p.Total {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}}
	if _, err := u.Unlock(t.Context(), h, []byte("x")); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Error(err)
	}
	if last.Done != last.Total || last.Total != 2*1000+32 {
		t.Errorf("%+v", last)
	}
}

// Excessive memory and time.
func TestAbsurdArgon2(t *testing.T) {
	t.Parallel()
	for says, kdf := range map[string]dict{
		"4194303 MiB of memory": {"time": 1, "memory": uint32(1<<32 - 1), "cpus": 1},
		"1024 MiB of memory":    {"time": 1, "memory": 1<<20 + 1, "cpus": 1},
		"would take very long":  {"time": 257, "memory": 1 << 20, "cpus": 1},
		"4294967295 passes":     {"time": uint32(1<<32 - 1), "memory": 64, "cpus": 1},
		// Argon2 takes 8 KiB a lane at least: 2040 passes over 1 KiB with 255 lanes are as many over 2 MiB.
		"132000 passes over 1 MiB": {"time": 132000, "memory": 1, "cpus": 255},
	} {
		kdf["type"], kdf["salt"] = "argon2id", "AAAA"
		h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(changed(set("keyslots.1", "kdf", kdf), set("digests.0", "keyslots", []any{"1"}))))))(t)
		if _, err := h.Unlock(t.Context(), []byte("x")); !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; should say %q", err, says)
		}
	}
}

// The caller may wipe the passphrase as soon as Unlock returns, and Unlock does not
// change it.
func TestPassphraseIsLeftAlone(t *testing.T) {
	t.Parallel()
	h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(metadata()))))(t)
	given := []byte(passphrase)
	if _, err := h.Unlock(t.Context(), given); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Error(err)
	}
	if string(given) != passphrase {
		t.Errorf("%q", given)
	}
}

func TestNothingPrintsAKey(t *testing.T) {
	t.Parallel()
	key := unlock(t, open(t, luksFormat(t, 4<<20, "--type", "luks1")), passphrase)
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	type holder struct {
		K *luks.VolumeKey
		E luks.EphemeralHeader
	}
	for _, v := range []any{key, *key, e, *e, e.Passphrase()} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(verb, v); got != "[redacted]" {
				t.Errorf("%s %T: %s", verb, v, got)
			}
		}
		if got, err := json.Marshal(v); err != nil || string(got) != `"[redacted]"` {
			t.Errorf("%T: %s %v", v, got, err)
		}
	}
	if got := fmt.Sprintf("%v", holder{key, *e}); got != "{[redacted] [redacted]}" {
		t.Error(got)
	}
	key.Wipe()
	key.Wipe()
	(*luks.VolumeKey)(nil).Wipe()
	if _, err := luks.Ephemeral(key); err == nil || key.Len() != 0 {
		t.Error("a wiped key still works")
	}
	e.Wipe()
	if e.Len() != 0 || e.Passphrase().Len() != 0 {
		t.Error("a wiped header still has bytes")
	}
}
