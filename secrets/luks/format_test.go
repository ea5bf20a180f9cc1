package luks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// formatted writes a new volume that the test passphrase opens, with size bytes of payload. It returns the path of its
// header; that of the payload is the same unless the header is detached.
func formatted(t *testing.T, f luks.Format, cost luks.KDF, size int64) string {
	t.Helper()
	key := must.Get(f.NewKey())(t)
	defer key.Wipe()
	passphrase := secrets.New([]byte("test passphrase"))
	defer passphrase.Wipe()
	b := must.Get(f.Header(t.Context(), key, passphrase, cost))(t)
	path := filepath.Join(t.TempDir(), "volume")
	must.OK(t, os.WriteFile(path, b, 0o600))
	must.OK(t, os.Truncate(path, max(must.Get(f.HeaderSize())(t), f.PayloadOffset)+size))
	return path
}

func TestFormat(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	argon2id := luks.KDF{Type: "argon2id", Time: 4, Memory: 64, Lanes: 2}
	for _, f := range []luks.Format{
		{},
		{PayloadOffset: 2 << 20, UUID: "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"},
		{Encryption: "aes-xts-plain64", KeyBytes: 32, Hash: "sha1", PayloadOffset: 4040 * 512},
		{Encryption: "aes-cbc-essiv:sha256", Hash: "sha512"},
		{Encryption: "aes-cbc-plain64", KeyBytes: 16, Hash: "ripemd160", PayloadOffset: 2 << 20},
		{Encryption: "twofish-xts-plain64", KeyBytes: 64, Hash: "sha384"},
		{Version: 2, PayloadOffset: 16 << 20, Label: "a label"},
		{Version: 2},
		{Version: 2, Encryption: "aes-cbc-essiv:sha256", KeyBytes: 32, Hash: "sha512", PayloadOffset: 2 << 20},
		{Version: 2, Encryption: "twofish-xts-plain64", KeyBytes: 32, Hash: "sha224", PayloadOffset: 2056 * 512},
	} {
		for _, cost := range []luks.KDF{f.MinimumCost(), argon2id} {
			if f.Version != 2 && cost.Type != "pbkdf2" {
				continue
			}
			t.Run(fmt.Sprintf("LUKS%d %s %d %s at %d %s", max(f.Version, 1), f.Encryption, f.KeyBytes, f.Hash, f.PayloadOffset, cost.Type), func(t *testing.T) {
				t.Parallel()
				path := formatted(t, f, cost, size)
				h := open(t, path)
				if f.UUID != "" && h.UUID != f.UUID || h.PayloadOffset() != f.PayloadOffset {
					t.Errorf("UUID %s, payload at %d", h.UUID, h.PayloadOffset())
				}
				if f.Version == 2 && (h.LUKS2.Label != f.Label || h.LUKS2.OtherCopy != nil) {
					t.Errorf("label %q, the other copy: %v", h.LUKS2.Label, h.LUKS2.OtherCopy)
				}
				key := unlock(t, h, "test passphrase")
				defer key.Wipe()
				_, err := h.Unlock(t.Context(), []byte("another"))
				if !errors.Is(err, luks.ErrWrongPassphrase) {
					t.Errorf("another passphrase: %v", err)
				}
				// cryptsetup takes twofish from the kernel.
				if !strings.HasPrefix(f.Encryption, "twofish") && !bytes.Equal(must.Use(t, key), dumpKey(t, path)) {
					t.Error("cryptsetup reads another volume key")
				}
				viaEphemeral(t, key)
				if f.Version != 2 && f.PayloadOffset > 0 && len(original(t, path).read(t)) != size {
					t.Errorf("QEMU reads another size than %d", size)
				}
				if (f.QEMUOpens() == nil) != (h.QEMUOpens() == nil) || (f.QEMUOpens() == nil) != (f.Version != 2) {
					t.Errorf("QEMU opens the format: %v, the header: %v", f.QEMUOpens(), h.QEMUOpens())
				}
				// cryptsetup finds nothing to correct.
				if out := run(t, "cryptsetup", "repair", "--batch-mode", path); strings.TrimSpace(out) != "" {
					t.Errorf("cryptsetup repair prints %q", out)
				}
			})
		}
	}
}

// TestFormatInUse: what QEMU writes through a header of ours and through cryptsetup's view of it is the same.
func TestFormatInUse(t *testing.T) {
	t.Parallel()
	f := luks.Format{PayloadOffset: 2 << 20}
	path := formatted(t, f, f.MinimumCost(), 1<<20)
	if data := original(t, path).read(t); len(data) != 1<<20 {
		t.Errorf("QEMU reads %d bytes", len(data))
	}
	// cryptsetup takes another key slot, and luksplug still opens the first.
	addKey(t, path, "second passphrase", "--pbkdf-force-iterations", "1000")
	h := open(t, path)
	first, second := unlock(t, h, "test passphrase"), unlock(t, h, "second passphrase")
	defer first.Wipe()
	defer second.Wipe()
	if first.Slot() != 0 || second.Slot() != 1 {
		t.Errorf("key slots %d and %d", first.Slot(), second.Slot())
	}
	viaEphemeral(t, first)
}

func TestFormatRefusals(t *testing.T) {
	t.Parallel()
	for what, f := range map[string]luks.Format{
		"a version":                     {Version: 3},
		"a UUID":                        {UUID: "0a81f5b2"},
		"a label of LUKS1":              {Label: "x"},
		"a long label":                  {Version: 2, Label: strings.Repeat("x", 48)},
		"an encryption":                 {Encryption: "rot13-cbc-plain"},
		"a key":                         {KeyBytes: 40},
		"a hash":                        {Hash: "md4"},
		"an odd offset":                 {PayloadOffset: 2<<20 + 1},
		"a negative offset":             {PayloadOffset: -512},
		"a payload in the header":       {PayloadOffset: 4032 * 512},
		"a payload in the LUKS2 header": {Version: 2, PayloadOffset: 64 << 10},
		"a payload beyond 32 bits":      {PayloadOffset: 1 << 42},
	} {
		if _, err := f.NewKey(); !errors.Is(err, luks.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f := luks.Format{}
	key := must.Get(f.NewKey())(t)
	defer key.Wipe()
	passphrase := secrets.New([]byte("x"))
	defer passphrase.Wipe()
	for what, c := range map[string]struct {
		luks.Format
		luks.KDF
	}{
		"argon2id in LUKS1":         {f, luks.KDF{Type: "argon2id", Time: 4, Memory: 64, Lanes: 1}},
		"another hash":              {f, luks.Format{Hash: "sha512"}.MinimumCost()},
		"another payload offset":    {luks.Format{PayloadOffset: 2 << 20}, f.MinimumCost()},
		"another encryption":        {luks.Format{Encryption: "aes-cbc-plain64", KeyBytes: 32}, f.MinimumCost()},
		"an unknown key derivation": {luks.Format{Version: 2}, luks.KDF{Type: "scrypt"}},
	} {
		if _, err := c.Header(t.Context(), key, passphrase, c.KDF); !errors.Is(err, luks.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	slow := luks.KDF{Type: "pbkdf2", Hash: "sha256", Iterations: 1 << 30}
	if _, err := f.Header(ended, key, passphrase, slow); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestCosts(t *testing.T) {
	t.Parallel()
	const limit = 64 << 20
	f := luks.Format{}
	short, long := must.Get(f.Cost(t.Context(), 0, limit))(t), must.Get(f.Cost(t.Context(), time.Second, limit))(t)
	if short.Type != "pbkdf2" || short.Iterations != 1000 || long.Iterations < 10_000 {
		t.Errorf("%+v and %+v", short, long)
	}
	if _, err := (luks.Format{Hash: "md4"}).Cost(t.Context(), time.Second, limit); !errors.Is(err, luks.ErrUnsupported) {
		t.Errorf("md4: %v", err)
	}
	f.Version = 2
	for _, d := range []time.Duration{0, time.Millisecond, time.Second} {
		k := must.Get(f.Cost(t.Context(), d, limit))(t)
		if k.Type != "argon2id" || k.Time < 4 || k.Memory < 32 || k.Memory > limit>>10 || k.Lanes < 1 || k.Lanes > 4 || k.Salt != nil {
			t.Errorf("%s: %+v", d, k)
		}
	}
	// cryptsetup takes them.
	path := formatted(t, f, must.Get(f.Cost(t.Context(), 50*time.Millisecond, limit))(t), 0)
	if out := run(t, "cryptsetup", "luksDump", path); !strings.Contains(out, "argon2id") {
		t.Errorf("luksDump: %s", out)
	}
}

func TestSlotCosts(t *testing.T) {
	t.Parallel()
	for _, f := range []luks.Format{{}, {Version: 2}} {
		cost := f.MinimumCost()
		cost.Iterations = 50_000
		if f.Version == 2 {
			cost = luks.KDF{Type: "argon2id", Time: 4, Memory: 32 << 10, Lanes: 1}
		}
		got := must.Get(open(t, formatted(t, f, cost, 0)).SlotCosts(t.Context()))(t)
		if len(got) != 1 || got[0].Slot != 0 || fmt.Sprint(got[0].KDF) != fmt.Sprint(cost) || got[0].Time < time.Millisecond || got[0].Time > time.Minute {
			t.Errorf("LUKS%d: %+v", f.Version, got)
		}
	}
}
