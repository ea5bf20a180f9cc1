package luks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What QEMU's own LUKS driver knows (crypto/block-luks.c, tried out with 10.0.2,
// all combinations of them): more than an [Ephemeral] header may have, since here
// QEMU alone is to answer for what it decrypts.
var (
	qemuHashes = []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"}
	// The hash of essiv makes the key of one more cipher: it must have the
	// length of one.
	qemuIVs     = []string{"plain", "plain64", "essiv:md5", "essiv:sha256", "essiv:sm3"}
	qemuModes   = []string{"xts", "cbc", "ctr"}
	qemuCiphers = map[string][]int{ // by length of key in bytes; two keys for xts
		"aes":     {16, 24, 32},
		"serpent": {16, 24, 32},
		"twofish": {16, 24, 32},
		"cast5":   {16},
	}
)

// QEMUOpens returns nil if QEMU's own LUKS driver, of 10.0, can open this header
// with the user's passphrase: without an ephemeral header. Otherwise the error
// wraps [ErrUnsupported], or [ErrNoKeySlot], and says what QEMU does not know.
//
// Ask it before QEMU is told to open a header by itself: most of what it does not
// know QEMU refuses, but at a key of 24 bytes (aes, twofish or serpent with 192
// bits, in cbc or ctr) it aborts, and the guest with it.
//
// It does not say whether [Header.Unlock] works: see [Header.Usable]. Older QEMUs
// know less (no sm3 before 9.1), and refuse that themselves. It reads nothing and
// derives nothing.
func (h *Header) QEMUOpens() error {
	if h.LUKS1 == nil {
		return fmt.Errorf("%w: QEMU by itself opens no LUKS%d: only LUKS1", ErrUnsupported, h.Version)
	}
	if err := h.LUKS1.qemuOpens(); err != nil {
		return err
	}
	if len(h.ActiveSlots()) == 0 {
		return ErrNoKeySlot
	}
	return nil
}

func (h *LUKS1) qemuOpens() error {
	refuse := func(what, name string) error {
		return fmt.Errorf("%w: QEMU by itself does not know the %s %q in %s-%s %s", ErrUnsupported, what, name, h.Cipher, h.Mode, h.Hash)
	}
	mode, iv, _ := strings.Cut(h.Mode, "-")
	keys, known := qemuCiphers[h.Cipher]
	keyBytes := h.KeyBytes
	if mode == "xts" {
		keyBytes = h.KeyBytes / 2
	}
	switch {
	case !known:
		return refuse("cipher", h.Cipher)
	case !slices.Contains(qemuModes, mode):
		return refuse("mode", mode)
	case !slices.Contains(qemuIVs, iv):
		return refuse("initialization vector", iv)
	case !slices.Contains(qemuHashes, h.Hash):
		return refuse("hash", h.Hash)
	case h.Cipher == "cast5" && (mode == "xts" || iv != "plain" && iv != "plain64"):
		// Its blocks have 8 bytes: too few for the one, and its keys are
		// shorter than the hashes for the other.
		return refuse("mode", h.Mode)
	case mode == "xts" && h.KeyBytes%2 != 0, !slices.Contains(keys, keyBytes):
		return fmt.Errorf("%w: QEMU by itself does not know %s-%s with a key of %d bits", ErrUnsupported, h.Cipher, h.Mode, h.KeyBytes*8)
	case h.MaterialSize()%SectorSize != 0:
		return fmt.Errorf("%w: QEMU aborts at the key material of %s-%s with a key of %d bits: %d bytes are no whole number of sectors",
			ErrUnsupported, h.Cipher, h.Mode, h.KeyBytes*8, h.MaterialSize())
	}
	return nil
}

// QEMUUnlockTime estimates how long QEMU's own LUKS driver takes to unlock this
// header: for as long its guest is stalled. first is the time where the
// passphrase opens the first key slot in use, all that where it opens the last one,
// or none. Without key slots in use both are 0.
//
// QEMU derives the keys one after the other, on one core. It is measured for a few
// milliseconds how fast one core of this machine derives with the same hash: on
// another machine, or on this one while it is busy, or with another library than
// this one's, it takes another time. Expect the right order of magnitude.
//
// The error wraps [ErrUnsupported]: for LUKS2, which QEMU by itself does not open,
// and for hashes that this package does not know.
func (h *Header) QEMUUnlockTime() (first, all time.Duration, err error) {
	if h.LUKS1 == nil {
		return 0, 0, fmt.Errorf("%w: QEMU by itself opens no LUKS%d: only LUKS1", ErrUnsupported, h.Version)
	}
	algorithm, err := findHash(h.LUKS1.Hash)
	if err != nil {
		return 0, 0, err
	}
	firstWork, allWork := h.LUKS1.work(algorithm)
	if allWork == 0 {
		return 0, 0, nil
	}
	perIteration := algorithm.speed()
	return duration(firstWork, perIteration), duration(allWork, perIteration), nil
}

// duration returns how long work takes; at most some 290 years.
func duration(work int64, each float64) time.Duration {
	return time.Duration(min(float64(work)*each, 1<<63-1025))
}

// work returns how many iterations of PBKDF2 it takes to try the first key slot in
// use, and all of them. Each is followed by the digest of what came out.
func (h *LUKS1) work(algorithm hashAlgorithm) (first, all int64) {
	digest := int64(h.DigestIterations) * int64(algorithm.blocks(len(h.Digest)))
	for _, s := range h.Slots {
		if !s.Active {
			continue
		}
		all += int64(s.Iterations)*int64(algorithm.blocks(h.KeyBytes)) + digest
		if first == 0 {
			first = all
		}
	}
	return first, all
}

// speed measures how many nanoseconds one core needs for one iteration of PBKDF2.
// It takes the shortest of several times: what else the machine does makes them
// longer.
func (a hashAlgorithm) speed() float64 {
	const rounds, iterations = 8, 2048
	p := a.newPRF(nil)
	to := make([]byte, p.hash.Size())
	shortest := time.Duration(1<<63 - 1)
	for range rounds {
		start := time.Now()
		// Without an end of the context there is no error.
		_ = p.block(context.Background(), kdf{iterations: iterations}, 0, to, func(int64) {})
		shortest = min(shortest, time.Since(start))
	}
	return float64(max(shortest, 1)) / iterations
}
