package luks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The algorithms of QEMU's LUKS driver (crypto/block-luks.c; all combinations tested
// with 10.0.2). They are more than those of [Ephemeral] headers, because here QEMU
// itself opens the original header.
var (
	qemuHashes = []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"}
	// essiv uses the hash as the key of another cipher, so the hash's length
	// must be a key length.
	qemuIVs     = []string{"plain", "plain64", "essiv:md5", "essiv:sha256", "essiv:sm3"}
	qemuModes   = []string{"xts", "cbc", "ctr"}
	qemuCiphers = map[string][]int{ // key lengths in bytes; xts needs two keys
		"aes":     {16, 24, 32},
		"serpent": {16, 24, 32},
		"twofish": {16, 24, 32},
		"cast5":   {16},
	}
)

// qemuAlignment is where QEMU's LUKS driver takes the first key material, and to what it
// rounds the length of each, in sectors.
const qemuAlignment = 8

// qemuSlot returns the number of sectors that the driver reserves for the key material of
// a slot.
func qemuSlot(keyBytes int) int64 {
	return (sectors(keyBytes*Stripes) + qemuAlignment - 1) / qemuAlignment * qemuAlignment
}

// QEMUOpens returns nil if the LUKS driver of QEMU 10.0 can open this header with the
// user's passphrase, without an ephemeral header. Otherwise the error wraps
// [ErrUnsupported] or [ErrNoKeySlot], and names what QEMU does not support.
//
// Call it before QEMU opens an original header: QEMU refuses most unsupported headers,
// but with a key of 24 bytes (aes, twofish or serpent with 192 bits, in cbc or ctr) it
// aborts, and the guest with it.
//
// For [Header.Unlock] see [Header.Usable] instead. Older QEMUs support less (no sm3
// before 9.1), and refuse the rest without aborting. QEMUOpens reads nothing and
// derives nothing.
func (h *Header) QEMUOpens() error {
	if h.LUKS1 == nil {
		return fmt.Errorf("%w: QEMU's LUKS driver opens no LUKS%d: only LUKS1", ErrUnsupported, h.Version)
	}
	if err := h.LUKS1.qemuOpens(); err != nil {
		return err
	}
	if len(h.ActiveSlots()) == 0 {
		return ErrNoKeySlot
	}
	return nil
}

// QEMUOpens is like [Header.QEMUOpens], for a header that is to be made. The error wraps [ErrUnsupported].
func (f Format) QEMUOpens() error {
	f, e, err := f.complete()
	switch {
	case err != nil:
		return err
	case f.Version != 1:
		return (&Header{Version: f.Version}).QEMUOpens()
	}
	return (&LUKS1{Cipher: e.cipher, Mode: e.mode + "-" + e.iv, Hash: f.Hash, KeyBytes: f.KeyBytes}).qemuSupports()
}

func (h *LUKS1) qemuOpens() error {
	if err := h.qemuSupports(); err != nil {
		return err
	}
	return h.qemuPlaces()
}

// qemuSupports refuses algorithms that QEMU's LUKS driver does not support.
func (h *LUKS1) qemuSupports() error {
	refuse := func(what, name string) error {
		return fmt.Errorf("%w: QEMU's LUKS driver does not support the %s %q in %s-%s %s", ErrUnsupported, what, name, h.Cipher, h.Mode, h.Hash)
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
		// Its blocks of 8 bytes are too short for xts, and its keys are
		// shorter than the hashes for essiv.
		return refuse("mode", h.Mode)
	case mode == "xts" && h.KeyBytes%2 != 0, !slices.Contains(keys, keyBytes):
		return fmt.Errorf("%w: QEMU's LUKS driver does not support %s-%s with a key of %d bits", ErrUnsupported, h.Cipher, h.Mode, h.KeyBytes*8)
	case h.MaterialSize()%SectorSize != 0:
		return fmt.Errorf("%w: QEMU aborts at the key material of %s-%s with a key of %d bits: %d bytes are not a whole number of sectors",
			ErrUnsupported, h.Cipher, h.Mode, h.KeyBytes*8, h.MaterialSize())
	}
	return nil
}

// qemuPlaces refuses key material where QEMU's LUKS driver takes none, as in headers from
// the days of LUKS 1.0. The driver also checks unused slots.
func (h *LUKS1) qemuPlaces() error {
	length := qemuSlot(h.KeyBytes)
	for i, slot := range h.Slots {
		start := int64(slot.MaterialSectors)
		switch {
		case start < qemuAlignment:
			return fmt.Errorf("%w: the key material of slot %d begins at sector %d, and QEMU's LUKS driver takes none before sector %d", ErrUnsupported, i, start, qemuAlignment)
		case h.PayloadSectors != 0 && start+length > int64(h.PayloadSectors):
			return fmt.Errorf("%w: QEMU's LUKS driver takes %d sectors for the key material of slot %d, at sector %d, and the payload begins at sector %d",
				ErrUnsupported, length, i, start, h.PayloadSectors)
		}
		for j, other := range h.Slots[:i] {
			if at := int64(other.MaterialSectors); start < at+length && at < start+length {
				return fmt.Errorf("%w: QEMU's LUKS driver takes %d sectors for the key material of a slot, and that of slots %d and %d overlaps then", ErrUnsupported, length, j, i)
			}
		}
	}
	return nil
}

// QEMUUnlockTime estimates how long QEMU's LUKS driver takes to unlock this header,
// during which the guest is stalled. first is the time if the passphrase opens the
// first key slot in use; all is the time if it opens the last one, or none. Without
// key slots in use both are 0.
//
// QEMU derives the keys sequentially, on one core. QEMUUnlockTime measures for a few
// milliseconds how fast one core of this machine derives with the same hash. Other
// machines, load and QEMU's crypto library change the time: the result is an order of
// magnitude.
//
// Nothing in the header shortens the estimate: iterations count as they are written, also
// those of a header that QEMU would not open, and md5 and sm3, which this package does not
// have, count as ripemd160, which is no faster here.
//
// The error wraps [ErrUnsupported] for LUKS2 and for hashes that QEMU does not support.
func (h *Header) QEMUUnlockTime() (first, all time.Duration, err error) {
	if h.LUKS1 == nil {
		return 0, 0, fmt.Errorf("%w: QEMU's LUKS driver opens no LUKS%d: only LUKS1", ErrUnsupported, h.Version)
	}
	name := h.LUKS1.Hash
	if name == "md5" || name == "sm3" {
		name = "ripemd160"
	}
	algorithm, err := findHash(name)
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

// duration returns how long work takes, at most some 290 years.
func duration(work int64, each float64) time.Duration {
	return time.Duration(min(float64(work)*each, 1<<63-1025))
}

// work returns the number of PBKDF2 iterations for trying the first key slot in use,
// and for trying all. Each try includes the digest of the resulting key.
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
// It returns the shortest of several measurements, because other load only makes them
// longer.
func (a hashAlgorithm) speed() float64 {
	const rounds, iterations = 8, 2048
	p := a.newPRF(nil)
	to := make([]byte, p.hash.Size())
	shortest := time.Duration(1<<63 - 1)
	for range rounds {
		start := time.Now()
		// The only error is that of the context, which never ends.
		_ = p.block(context.Background(), kdf{iterations: iterations}, 0, to, func(int64) {})
		shortest = min(shortest, time.Since(start))
	}
	return float64(max(shortest, 1)) / iterations
}
