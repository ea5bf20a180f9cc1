package luks

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

const (
	// ephemeralHash is always the same: QEMU knows fewer hashes than
	// cryptsetup, and sha256 is one.
	ephemeralHash = "sha256"
	// ephemeralAlignment, in sectors, is that of cryptsetup's and QEMU's key
	// material.
	ephemeralAlignment = 8
	// oneTimeBytes is the entropy of a one-time passphrase: no iterations are
	// needed where nothing can be guessed.
	oneTimeBytes = 32
	// uuidLength is that of "7b00deeb-aa62-4a82-9a97-64755a11c2a3", the one way
	// of several to write a UUID that cryptsetup uses.
	uuidLength = 36
)

// EphemeralHeader is a LUKS1 header with the volume key of another one, made to be
// handed to QEMU once and to be forgotten. With its passphrase it is as good as the
// volume key: it has memory of its own, locked and kept out of core files like that
// of a [secrets.Secret], and prints as "[redacted]". Safe for concurrent use.
type EphemeralHeader struct {
	header     *secrets.Secret
	passphrase *secrets.Secret
}

// Ephemeral returns a LUKS1 header with the same volume key, encryption and
// payload offset as the header that key was unlocked from, one key slot of one
// PBKDF2 iteration, and a random one-time passphrase: QEMU opens it in 2 ms. The
// key is not wiped. The caller wipes the ephemeral header.
//
// It has the UUID of the original header too, so that QEMU's
// query-named-block-nodes says (format-specific, data.uuid) which volume is open.
// Only where the original has none, or a text that is no UUID of 36 characters, is
// it random.
//
// Only what lies below the payload offset differs from a copy of the original
// header. A payload offset of 0 says that the payload is in another file than the
// original header was: with the original's own file as payload QEMU would
// overwrite the original header.
//
// The digest in it is of its own making, so QEMU cannot notice a wrong volume key:
// that the key is right was verified by [Header.Unlock].
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

// Passphrase returns the one-time passphrase: 64 hexadecimal digits, since QEMU
// takes valid UTF-8 only. It is wiped together with the header.
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
	_, _ = rand.Read(random) // ends the program rather than fail
	oneTime := hex.AppendEncode(nil, random)
	clear(random)
	defer clear(oneTime)
	slotKey, err := pbkdf2(context.Background(), slotKDF, oneTime, len(key))
	if err != nil {
		return nil, nil, err
	}
	defer clear(slotKey)
	c, err := v.encryption.newSectorCipher(slotKey)
	if err != nil {
		return nil, nil, err
	}
	defer c.wipe()

	length := sectors(len(key) * Stripes)
	end := (int64(starts[0]) + length + ephemeralAlignment - 1) / ephemeralAlignment * ephemeralAlignment
	b := make([]byte, end*SectorSize)
	v.writePhdr(b, len(key), starts)
	copy(b[112:132], sum)
	copy(b[132:164], digest.salt)
	binary.BigEndian.PutUint32(b[164:], digest.iterations)
	slot := b[luks1Keys:]
	binary.BigEndian.PutUint32(slot, slotActive)
	binary.BigEndian.PutUint32(slot[4:], slotKDF.iterations)
	copy(slot[8:40], slotKDF.salt)

	material := b[int64(starts[0])*SectorSize:][:length*SectorSize]
	algorithm.split(material[:len(key)*Stripes], key)
	c.encrypt(material)
	return b, secrets.New(oneTime), nil
}

// writePhdr writes what does not depend on the key: the fields of struct luks_phdr (LUKS
// On-Disk Format Specification, figure 1), with all key slots disabled.
func (v *volume) writePhdr(b []byte, keyBytes int, starts [Slots]uint32) {
	copy(b, magic)
	binary.BigEndian.PutUint16(b[6:], 1)
	copy(b[8:40], v.encryption.cipher)
	copy(b[40:72], v.encryption.mode+"-"+v.encryption.iv)
	copy(b[72:104], ephemeralHash)
	binary.BigEndian.PutUint32(b[104:], uint32(v.payloadOffset/SectorSize))
	binary.BigEndian.PutUint32(b[108:], uint32(keyBytes))
	copy(b[168:208], v.ephemeralUUID())
	for i, start := range starts {
		s := b[luks1Keys+i*luks1KeySlot:]
		binary.BigEndian.PutUint32(s, slotDisabled)
		binary.BigEndian.PutUint32(s[40:], start)
		binary.BigEndian.PutUint32(s[44:], Stripes)
	}
}

// ephemeralUUID returns the original header's UUID, or a random one where that is
// none: QEMU shows to all its clients whatever is there.
func (v *volume) ephemeralUUID() string {
	if len(v.uuid) != uuidLength || uuid.Validate(v.uuid) != nil {
		return uuid.NewString()
	}
	return v.uuid
}

// once returns a PBKDF2 of one iteration with a fresh salt.
func once(a hashAlgorithm) kdf {
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // ends the program rather than fail
	return kdf{kind: typePBKDF2, salt: salt, hash: a, iterations: 1}
}

// layOut returns at which sectors the key material of an ephemeral header's slots
// begins. QEMU checks those of unused slots too: none may overlap another one or
// reach into the payload. Unused ones need not exist in the file.
func layOut(keyBytes int, payloadOffset int64) ([Slots]uint32, error) {
	var starts [Slots]uint32
	payload := payloadOffset / SectorSize
	if payload > math.MaxUint32 || payloadOffset%SectorSize != 0 {
		return starts, fmt.Errorf("%w: a LUKS1 header cannot say that the payload begins at byte %d", ErrUnsupported, payloadOffset)
	}
	length := sectors(keyBytes * Stripes)
	// Aligned as usual, or, where the original header is packed more tightly,
	// like that.
	for _, alignment := range []int64{ephemeralAlignment, 1} {
		next := int64(luks1MinStart)
		for i := range starts {
			next = (next + alignment - 1) / alignment * alignment
			starts[i] = uint32(next)
			next += length
		}
		if payload == 0 || next <= payload {
			return starts, nil
		}
	}
	return starts, fmt.Errorf("%w: the payload begins at byte %d: too early for the LUKS1 header, of up to %d bytes, that QEMU needs",
		ErrUnsupported, payloadOffset, (luks1MinStart+Slots*length)*SectorSize)
}
