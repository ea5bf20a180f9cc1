package luks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

const (
	// ephemeralHash is a hash that QEMU supports: it supports fewer than
	// cryptsetup.
	ephemeralHash = "sha256"
	// oneTimeBytes is the entropy of a one-time passphrase, in bytes: enough
	// that one iteration is safe.
	oneTimeBytes = 32
	// uuidLength is the length of "7b00deeb-aa62-4a82-9a97-64755a11c2a3", the
	// only form of a UUID that cryptsetup writes.
	uuidLength = 36
)

// EphemeralHeader is a LUKS1 header with the volume key of another header, to be
// passed to QEMU once. Together with its passphrase it is equivalent to the volume
// key, so it is stored like a [secrets.Secret] in locked memory outside of core
// files, and prints as "[redacted]". It is safe for concurrent use.
type EphemeralHeader struct {
	header     *secrets.Secret
	passphrase *secrets.Secret
}

// Ephemeral returns a LUKS1 header with the same volume key, encryption and
// payload offset as the header that key was unlocked from, one key slot of one
// PBKDF2 iteration, and a random one-time passphrase: QEMU opens it in 2 ms. The
// key is not wiped. The caller wipes the ephemeral header.
//
// It also has the UUID of the original header, so that QEMU's
// query-named-block-nodes shows (format-specific, data.uuid) which volume is open.
// The UUID is random if the original has none, or a text that is not a UUID of 36
// characters.
//
// Written over a copy of the original header, it changes only bytes below the
// payload offset. An offset of 0 means that the payload is in another file than the
// original header: QEMU would overwrite the original header if its file were used as
// the payload.
//
// The digest is computed from key, so QEMU cannot detect a wrong volume key:
// [Header.Unlock] has verified it.
func Ephemeral(key *VolumeKey) (*EphemeralHeader, error) {
	var header []byte
	var passphrase *secrets.Secret
	err := key.Use(func(value []byte) error {
		var err error
		header, passphrase, err = key.volume.ephemeral(value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make an ephemeral LUKS header: %w", err)
	}
	return &EphemeralHeader{header: secrets.New(header), passphrase: passphrase}, nil
}

// Use calls f with the header's bytes, as [secrets.Secret.Use] does.
func (e *EphemeralHeader) Use(f func(header []byte) error) error { return e.header.Use(f) }

// Len returns the number of bytes, a multiple of 4096; 0 after Wipe.
func (e *EphemeralHeader) Len() int { return e.header.Len() }

// Passphrase returns the one-time passphrase: 64 hexadecimal digits, because QEMU
// accepts only valid UTF-8. It is wiped together with the header.
func (e *EphemeralHeader) Passphrase() *secrets.Secret { return e.passphrase }

// Wipe zeroes the header and its passphrase. Calling it again does nothing.
func (e *EphemeralHeader) Wipe() {
	e.header.Wipe()
	e.passphrase.Wipe()
}

// Format implements [fmt.Formatter] for every verb and flag.
func (e EphemeralHeader) Format(f fmt.State, _ rune) {
	// fmt.State never fails, and Format could not report it.
	_, _ = f.Write([]byte(secrets.Redacted))
}

// MarshalText returns [secrets.Redacted].
func (e EphemeralHeader) MarshalText() ([]byte, error) { return []byte(secrets.Redacted), nil }

// ephemeral builds the header and its passphrase; the caller wipes both.
func (v *volume) ephemeral(key []byte) ([]byte, *secrets.Secret, error) {
	starts, err := layOut(len(key), v.payloadOffset)
	if err != nil {
		return nil, nil, err
	}
	algorithm, err := findHash(ephemeralHash)
	if err != nil {
		return nil, nil, err
	}
	digest, slotKDF := once(algorithm), once(algorithm)
	sum, err := pbkdf2(context.Background(), digest, key, minDigest)
	if err != nil {
		return nil, nil, err
	}

	random := make([]byte, oneTimeBytes)
	_, _ = rand.Read(random) // never returns an error: it crashes the program instead
	oneTime := hex.AppendEncode(nil, random)
	clear(random)
	defer clear(oneTime)
	slotKey, err := pbkdf2(context.Background(), slotKDF, oneTime, len(key))
	if err != nil {
		return nil, nil, err
	}
	defer clear(slotKey)
	material, err := v.encryption.seal(algorithm, key, slotKey)
	if err != nil {
		return nil, nil, err
	}
	p := phdr{encryption: v.encryption, hash: ephemeralHash, keyBytes: len(key), payloadOffset: v.payloadOffset, uuid: v.ephemeralUUID(),
		digest: digest, sum: sum, starts: starts}
	b := make([]byte, (int64(starts[0])+qemuSlot(len(key)))*SectorSize)
	p.write(b)
	writeLUKS1Slot(b, 0, slotKDF)
	copy(b[int64(starts[0])*SectorSize:], material)
	return b, secrets.New(oneTime), nil
}

// ephemeralUUID returns the original header's UUID, or a random one if that is not a
// UUID: QEMU shows it to all its clients.
func (v *volume) ephemeralUUID() string {
	if len(v.uuid) != uuidLength || uuid.Validate(v.uuid) != nil {
		return uuid.NewString()
	}
	return v.uuid
}

// once returns a PBKDF2 of one iteration with a random salt.
func once(a hashAlgorithm) kdf {
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never returns an error: it crashes the program instead
	return kdf{kind: typePBKDF2, salt: salt, hash: a, iterations: 1}
}

// layOut returns the first sectors of the key material of an ephemeral header's
// slots, as QEMU's LUKS driver accepts them (crypto/block-luks.c,
// qcrypto_block_luks_check_header): from its own alignment on, each rounded up to it. QEMU
// also checks unused slots: none may overlap another slot or the payload.
// The key material of unused slots need not exist in the file.
func layOut(keyBytes int, payloadOffset int64) ([Slots]uint32, error) {
	var starts [Slots]uint32
	payload := payloadOffset / SectorSize
	if payload > math.MaxUint32 || payloadOffset%SectorSize != 0 {
		return starts, fmt.Errorf("%w: a LUKS1 header cannot represent that the payload begins at byte %d", ErrUnsupported, payloadOffset)
	}
	length := qemuSlot(keyBytes)
	next := int64(qemuAlignment)
	for i := range starts {
		starts[i] = uint32(next)
		next += length
	}
	if payload == 0 || next <= payload {
		return starts, nil
	}
	return starts, fmt.Errorf("%w: the payload begins at sector %d, too early for the LUKS1 header of %d sectors that QEMU needs",
		ErrUnsupported, payload, next)
}
