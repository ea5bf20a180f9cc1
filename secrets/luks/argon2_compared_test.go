package luks

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// FuzzArgon2: the derivation equals that of x/crypto for all parameters.
func FuzzArgon2(f *testing.F) {
	for _, lanes := range []uint8{1, 2, 3, 4, 7} {
		for _, memory := range []uint16{1, 8, 31, 32, 33, 100, 1000} {
			f.Add([]byte("passphrase"), []byte("saltsaltsaltsalt"), uint8(1), memory, lanes, uint8(64), lanes%2 == 0)
		}
	}
	f.Add([]byte{}, []byte{}, uint8(3), uint16(64), uint8(2), uint8(32), true)
	f.Add(bytes.Repeat([]byte("x"), 300), []byte("s"), uint8(2), uint16(64), uint8(4), uint8(97), false)
	f.Add([]byte("p"), []byte("s"), uint8(2), uint16(64), uint8(4), uint8(1), false)
	f.Fuzz(func(t *testing.T, passphrase, salt []byte, passes uint8, memory uint16, lanes, n uint8, independent bool) {
		if passes == 0 || lanes == 0 || n == 0 || int(passes)*int(memory) > 1<<14 || lanes > 32 {
			return
		}
		k := kdf{kind: typeArgon2id, salt: salt, time: uint32(passes), memory: uint32(memory), lanes: uint32(lanes)}
		derive := argon2.IDKey
		if independent {
			k.kind, derive = typeArgon2i, argon2.Key
		}
		want := derive(passphrase, salt, k.time, k.memory, lanes, uint32(n))
		secret := secrets.New(bytes.Clone(passphrase))
		defer secret.Wipe()
		if got := must.Get(argon2Key(t.Context(), k, secret, int(n)))(t); !bytes.Equal(got, want) {
			t.Errorf("%s, %d passes, %d KiB, %d lanes, %d bytes: %x, want %x", k.kind, passes, memory, lanes, n, got, want)
		}
	})
}

// TestArgon2WorkIsWhatItTakes: the bound counts at least 8 KiB a lane.
func TestArgon2WorkIsWhatItTakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		memory, lanes uint32
		blocks        int64
	}{{1, 1, 8}, {8, 1, 8}, {9, 1, 8}, {12, 1, 12}, {1, 255, 2040}, {2039, 255, 2040}, {3060, 255, 3060}, {1 << 20, 4, 1 << 20}, {1<<32 - 1, 1, 1<<32 - 4}} {
		k := kdf{kind: typeArgon2id, time: 3, memory: c.memory, lanes: c.lanes}
		if got := k.work(64); got != 3*c.blocks {
			t.Errorf("%d KiB, %d lanes: %d, want %d", c.memory, c.lanes, got, 3*c.blocks)
		}
	}
}

// TestNoArgon2OutlivesItsContext: a caller whose context ends often starts no work that adds up.
func TestNoArgon2OutlivesItsContext(t *testing.T) {
	secret := secrets.New([]byte("x"))
	defer secret.Wipe()
	k := kdf{kind: typeArgon2id, salt: make([]byte, 16), time: 100, memory: 64 << 10, lanes: 4}
	before := runtime.NumGoroutine()
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, err := argon2Key(ctx, k, secret, 64); err == nil {
			t.Error("100 passes over 64 MiB took 5 ms")
		}
		cancel()
	}
	// A goroutine has ended a moment after another one can know that.
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, and %d before", runtime.NumGoroutine(), before)
}
