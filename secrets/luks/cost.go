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
	out := KDF{Type: typeArgon2id, Lanes: uint32(min(runtime.GOMAXPROCS(0), maxArgon2Lanes))}
	each, err := kdf{kind: out.Type, lanes: out.Lanes}.argon2Speed(ctx)
	if err != nil {
		return KDF{}, err
	}
	work := float64(d) / max(each, 1e-9)
	memory := min(work/minArgon2Time, float64(limit>>10), maxArgon2Memory)
	out.Memory = uint32(max(memory, minArgon2Memory))
	out.Time = uint32(min(max(work/float64(out.Memory), minArgon2Time), 1<<31))
	return out, nil
}

// SlotCost is what trying one key slot costs.
type SlotCost struct {
	Slot int
	KDF  KDF // without its salt
	// Time is how long one core of this host derives the key; with Argon2, as many as it has lanes. 0 if it is unknown.
	Time time.Duration
}

// SlotCosts estimates what trying each key slot in use costs on this host. It measures for some milliseconds for each
// kind of derivation. The times are orders of magnitude, as those of [Header.QEMUUnlockTime]. The error is that of ctx.
func (h *Header) SlotCosts(ctx context.Context) ([]SlotCost, error) {
	var costs []SlotCost
	var keyBytes []int
	if h.LUKS1 != nil {
		for _, i := range h.ActiveSlots() {
			costs = append(costs, SlotCost{Slot: i, KDF: KDF{Type: typePBKDF2, Hash: h.LUKS1.Hash, Iterations: h.LUKS1.Slots[i].Iterations}})
			keyBytes = append(keyBytes, h.LUKS1.KeyBytes)
		}
	}
	if h.LUKS2 != nil {
		for _, s := range h.LUKS2.KeySlots {
			if s.Type != typeLUKS2 {
				continue
			}
			k := s.KDF
			k.Salt = nil
			costs = append(costs, SlotCost{Slot: s.ID, KDF: k})
			keyBytes = append(keyBytes, s.AreaKeyBytes)
		}
	}
	speeds := map[string]float64{} // in nanoseconds for an iteration or a KiB
	for i := range costs {
		c := &costs[i]
		k, err := c.KDF.kdf()
		if err != nil {
			continue // unknown
		}
		name := c.KDF.Type + c.KDF.Hash
		if k.kind != typePBKDF2 {
			name = fmt.Sprint(c.KDF.Type, c.KDF.Lanes)
		}
		if _, measured := speeds[name]; !measured {
			if k.kind == typePBKDF2 {
				speeds[name] = k.hash.speed()
			} else if speeds[name], err = k.argon2Speed(ctx); err != nil {
				return nil, err
			}
		}
		c.Time = duration(k.work(keyBytes[i]), speeds[name])
	}
	return costs, nil
}

// argon2Speed measures how many nanoseconds a KiB takes with the lanes of k.
func (k kdf) argon2Speed(ctx context.Context) (float64, error) {
	k.time, k.memory, k.salt = minArgon2Time, tryMemory, randomBytes(slotSaltBytes)
	passphrase := secrets.New(randomBytes(slotSaltBytes))
	defer passphrase.Wipe()
	begin := time.Now()
	derived, err := k.derive(ctx, passphrase, defaultKeyBytes)
	clear(derived)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", k.kind, err)
	}
	return float64(time.Since(begin)) / float64(k.work(defaultKeyBytes)), nil
}
