package luks_test

import (
	"bytes"
	"testing"

	"github.com/luksplug/luksplug/secrets/luks"
)

// One key slot of a default-made LUKS1 header: 64 bytes by PBKDF2 with a million
// iterations, which are two blocks, one for each of two cores.
func BenchmarkUnlock(b *testing.B) {
	meta := changed(set("keyslots.0.kdf", "iterations", 1_000_000), set("digests.0", "keyslots", []any{"0"}))
	h, err := luks.ReadHeader(bytes.NewReader(assemble(meta)))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := h.Unlock(b.Context(), []byte("x")); err == nil {
			b.Fatal("opened")
		}
	}
}

func BenchmarkEphemeral(b *testing.B) {
	key := unlock(b, open(b, luksFormat(b, 4<<20, "--type", "luks1")), passphrase)
	for b.Loop() {
		e, err := luks.Ephemeral(key)
		if err != nil {
			b.Fatal(err)
		}
		e.Wipe()
	}
}
