package luks

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/luksplug/luksplug/secrets"
)

// minIterations is the lowest number of PBKDF2 iterations that cryptsetup and QEMU write.
const minIterations = 1000

// Argon2id by cryptsetup's limits: at least 4 passes and 32 KiB, at most 1 GiB and 4 lanes.
const (
	minArgon2Time   = 4
	minArgon2Memory = 32      // KiB
	maxArgon2Memory = 1 << 20 // KiB
	maxArgon2Lanes  = 4
	// tryMemory is what a measurement takes.
	tryMemory = 16 << 10 // KiB
)

// MinimumCost returns a derivation for a random passphrase of 128 bits or more: guessing it is hopeless, so that a slow
// derivation would add nothing. It takes about a millisecond.
func (f Format) MinimumCost() KDF {
	return KDF{Type: typePBKDF2, Hash: cmp.Or(f.Hash, defaultHash), Iterations: minIterations}
}

// Cost returns a derivation that takes about d on this host, for a passphrase that a person has chosen: by PBKDF2 for
// LUKS1, by Argon2id (RFC 9106) for LUKS2, with as much memory as that allows, up to limit bytes, which is needed at each
// unlocking. It measures for some tens of milliseconds, and ends when ctx ends. The error wraps [ErrUnsupported], or is
// that of ctx.
func (f Format) Cost(ctx context.Context, d time.Duration, limit int64) (KDF, error) {
	f, _, err := f.complete()
	if err != nil {
		return KDF{}, err
	}
	if f.Version == 2 {
		return argon2Cost(ctx, d, limit)
	}
	algorithm, err := findHash(f.Hash)
	if err != nil {
		return KDF{}, err
	}
	iterations := float64(d) / algorithm.speed() / float64(algorithm.blocks(f.KeyBytes))
	return KDF{Type: typePBKDF2, Hash: f.Hash, Iterations: uint32(min(max(iterations, minIterations), 1<<32-1))}, nil
}

func argon2Cost(ctx context.Context, d time.Duration, limit int64) (KDF, error) {
	out := KDF{Type: typeArgon2id, Time: minArgon2Time, Memory: tryMemory, Lanes: uint32(min(runtime.GOMAXPROCS(0), maxArgon2Lanes)), Salt: randomBytes(slotSaltBytes)}
	k, err := out.kdf()
	if err != nil {
		return KDF{}, err
	}
	passphrase := secrets.New(randomBytes(slotSaltBytes))
	defer passphrase.Wipe()
	begin := time.Now()
	derived, err := k.derive(ctx, passphrase, defaultKeyBytes)
	clear(derived)
	if err != nil {
		return KDF{}, fmt.Errorf("measure argon2id: %w", err)
	}
	each := float64(time.Since(begin)) / float64(k.work(defaultKeyBytes)) // for a KiB
	work := float64(d) / max(each, 1e-9)
	memory := min(work/minArgon2Time, float64(limit>>10), maxArgon2Memory)
	out.Memory = uint32(max(memory, minArgon2Memory))
	out.Time = uint32(min(max(work/float64(out.Memory), minArgon2Time), 1<<31))
	out.Salt = nil
	return out, nil
}
