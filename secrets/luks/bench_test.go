package luks_test

import (
	"bytes"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// One key slot of a LUKS1 header like cryptsetup's default: 64 bytes by PBKDF2 with
// a million iterations, which are two blocks, one for each of two cores.
func BenchmarkUnlock(b *testing.B) {
	meta := changed(set("keyslots.0.kdf", "iterations", 1_000_000), set("digests.0", "keyslots", []any{"0"}))
	h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(meta))))(b)
	for b.Loop() {
		if _, err := h.Unlock(b.Context(), []byte("x")); err == nil {
			b.Fatal("opened")
		}
	}
}

func BenchmarkEphemeral(b *testing.B) {
	key := unlock(b, open(b, luksFormat(b, 4<<20, "--type", "luks1")), passphrase)
	for b.Loop() {
		e := must.Get(luks.Ephemeral(key))(b)
		e.Wipe()
	}
}
