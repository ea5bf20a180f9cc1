package luks

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// Format describes the header of a new volume. Defaults are those of cryptsetup and QEMU.
type Format struct {
	Version int // 1, the default, or 2
	// UUID is random if empty.
	UUID string
	// Label is a text of up to 47 bytes, for LUKS2 only.
	Label string
	// Encryption is that of the payload and of the key material; "" is "aes-xts-plain64".
	Encryption string
	// KeyBytes is the length of the volume key; 0 is the longest that the encryption has.
	KeyBytes int
	// Hash is that of the digest, of the splitter, and of PBKDF2; "" is "sha256".
	Hash string
	// PayloadOffset is where the payload begins, in bytes from the beginning of the header. 0 is for a header in a
	// file of its own. [Format.HeaderSize] is the lowest other value.
	PayloadOffset int64
	// Birth is when the volume key was made, for [Header.Birth]. LUKS2 only; the zero time records none.
	Birth time.Time
}

// Sizes of a new LUKS2 header. cryptsetup makes the same.
const (
	// defaultEncryption is the default of QEMU and cryptsetup: AES with 256 bits, for which XTS needs a key of 512 bits.
	defaultEncryption = "aes-xts-plain64"
	defaultKeyBytes   = 64
	defaultHash       = "sha256"
	newLUKS2Size      = 0x4000 // of a copy
	luks2Areas        = 2 * newLUKS2Size
	luks2Default      = 16 << 20 // with the key material
	luks2Align        = 4096     // of key material
	luks1Default      = 2 << 20
	maxLabel          = 47
	slotSaltBytes     = 32
	// digestIterations are those of the digest of a new volume. A volume key is random and as long as a hash at least, so
	// that guessing it is hopeless without any.
	digestIterations = 1000
)

// DefaultPayloadOffset returns where cryptsetup begins the payload of such a volume by default: at 2 MiB for LUKS1, at
// 16 MiB for LUKS2.
func (f Format) DefaultPayloadOffset() int64 {
	if f.Version == 2 {
		return luks2Default
	}
	return luks1Default
}

// HeaderSize returns the length of the header with all its key slots, in bytes; of a LUKS2 header before its payload, with
// one key slot at least, and room for the LUKS1 header of [Ephemeral]. The error wraps [ErrUnsupported].
func (f Format) HeaderSize() (int64, error) {
	f, _, err := f.complete()
	if err != nil {
		return 0, err
	}
	return f.size()
}

func (f Format) size() (int64, error) {
	if f.Version == 2 && f.PayloadOffset == 0 {
		return luks2Default, nil
	}
	starts, err := layOut(f.KeyBytes, 0)
	size := (int64(starts[Slots-1]) + qemuSlot(f.KeyBytes)) * SectorSize
	if f.Version == 2 {
		size = max(size, luks2Areas+luks2Slot(f.KeyBytes))
	}
	return size, err
}

// luks2Slot returns the room for the key material of a key slot of LUKS2.
func luks2Slot(keyBytes int) int64 {
	return (int64(keyBytes)*Stripes + luks2Align - 1) / luks2Align * luks2Align
}

// complete fills in the defaults and checks the values. The error wraps [ErrUnsupported].
func (f Format) complete() (Format, encryption, error) {
	f.Version = cmp.Or(f.Version, 1)
	f.UUID = cmp.Or(f.UUID, uuid.NewString())
	f.Encryption = cmp.Or(f.Encryption, defaultEncryption)
	f.Hash = cmp.Or(f.Hash, defaultHash)
	refuse := func(format string, args ...any) (Format, encryption, error) {
		return f, encryption{}, fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
	}
	e, err := parseEncryption(f.Encryption)
	if err != nil {
		return f, e, err
	}
	if f.KeyBytes == 0 {
		sizes := modes[e.mode].keyBytes
		f.KeyBytes = sizes[len(sizes)-1]
	}
	if err := e.checkKey(f.KeyBytes); err != nil {
		return f, e, err
	}
	if _, err := findHash(f.Hash); err != nil {
		return f, e, err
	}
	switch {
	case f.Version != 1 && f.Version != 2:
		return refuse("LUKS%d: 1 and 2 are known", f.Version)
	case len(f.UUID) != uuidLength || uuid.Validate(f.UUID) != nil:
		return refuse("%q is not a UUID", f.UUID)
	case f.Label != "" && f.Version == 1:
		return refuse("a LUKS1 header has no label")
	case !f.Birth.IsZero() && f.Version == 1:
		return refuse("a LUKS1 header has no place for the birth of its key")
	case len(f.Label) > maxLabel || strings.ContainsRune(f.Label, 0):
		return refuse("the label %q: up to %d bytes without NUL are possible", f.Label, maxLabel)
	case f.Version == 1 && len(f.Hash) > 31:
		return refuse("the hash %q does not fit into a LUKS1 header", f.Hash)
	case f.PayloadOffset < 0 || f.PayloadOffset%SectorSize != 0:
		return refuse("a payload at byte %d: the offset is a multiple of %d", f.PayloadOffset, SectorSize)
	}
	size, err := f.size()
	if err != nil {
		return f, e, err
	}
	if f.PayloadOffset != 0 && f.PayloadOffset < size {
		return refuse("the payload at byte %d begins inside the header, which has %d bytes", f.PayloadOffset, size)
	}
	_, err = layOut(f.KeyBytes, f.PayloadOffset) // a LUKS1 header has 32 bits for it, that of Ephemeral as well
	return f, e, err
}

// NewKey makes the random volume key of a new volume. The caller wipes it. The error wraps [ErrUnsupported].
func (f Format) NewKey() (*VolumeKey, error) {
	f, e, err := f.complete()
	if err != nil {
		return nil, fmt.Errorf("make a volume key: %w", err)
	}
	key := make([]byte, f.KeyBytes)
	_, _ = rand.Read(key) // never returns an error: it crashes the program instead
	v := &volume{uuid: f.UUID, encryption: e, keyBytes: f.KeyBytes, payloadOffset: f.PayloadOffset}
	return &VolumeKey{key: secrets.New(key), volume: v}, nil
}

// Header returns a header with the volume key in its first key slot, which passphrase opens after a derivation with kdf,
// whose salt is made here; LUKS1 has PBKDF2 with the hash of f only. The result ends after the key material of that slot:
// a file of [Format.HeaderSize] bytes has room for all. It is no secret, as a header is none. The encryption, the
// length and the payload offset of the key's volume count, and f must not contradict them; an empty UUID is that of
// the key's volume.
//
// It derives for as long as kdf takes, and stops when ctx ends. The errors wrap [ErrUnsupported], or are that of ctx.
func (f Format) Header(ctx context.Context, key *VolumeKey, passphrase *secrets.Secret, kdf KDF) ([]byte, error) {
	f.UUID = cmp.Or(f.UUID, key.volume.uuid)
	f.Encryption, f.KeyBytes = cmp.Or(f.Encryption, key.Encryption()), cmp.Or(f.KeyBytes, key.Len())
	b, err := f.header(ctx, key, passphrase, kdf)
	if err != nil {
		return nil, fmt.Errorf("make a LUKS header: %w", err)
	}
	return b, nil
}

func (f Format) header(ctx context.Context, key *VolumeKey, passphrase *secrets.Secret, cost KDF) ([]byte, error) {
	f, e, err := f.complete()
	if err != nil {
		return nil, err
	}
	if f.Encryption != key.Encryption() || f.KeyBytes != key.Len() || f.PayloadOffset != key.PayloadOffset() {
		return nil, fmt.Errorf("%w: the volume key is that of a volume with %s, %d bits and its payload at byte %d", ErrUnsupported, key.Encryption(), key.Len()*8, key.PayloadOffset())
	}
	algorithm, err := findHash(f.Hash)
	if err != nil {
		return nil, err
	}
	if f.Version == 1 && (cost.Type != typePBKDF2 || cost.Hash != f.Hash) {
		return nil, fmt.Errorf("%w: a LUKS1 header derives by PBKDF2 with its own hash, %s", ErrUnsupported, f.Hash)
	}
	cost.Salt = randomBytes(slotSaltBytes)
	slotKDF, err := cost.kdf()
	if err != nil {
		return nil, err
	}
	slotKey, err := slotKDF.derive(ctx, passphrase, f.KeyBytes)
	if err != nil {
		return nil, err
	}
	defer clear(slotKey)
	p := headerParts{Format: f, encryption: e, digest: kdf{kind: typePBKDF2, salt: randomBytes(slotSaltBytes), hash: algorithm, iterations: digestIterations}, slot: cost, slotKDF: slotKDF}
	if err := key.Use(func(value []byte) error {
		if p.material, err = e.seal(algorithm, value, slotKey); err != nil {
			return err
		}
		length := minDigest
		if f.Version == 2 {
			length = algorithm.make().Size()
		}
		p.sum, err = pbkdf2(ctx, p.digest, value, length)
		return err
	}); err != nil {
		return nil, err
	}
	if f.Version == 2 {
		return p.luks2()
	}
	return p.luks1()
}

// headerParts are what a new header is made of.
type headerParts struct {
	Format
	encryption encryption
	digest     kdf
	sum        []byte
	slot       KDF // as LUKS2 writes it
	slotKDF    kdf // the same, checked
	material   []byte
}

func (p headerParts) luks1() ([]byte, error) {
	starts, err := layOut(p.KeyBytes, p.PayloadOffset)
	if err != nil {
		return nil, err
	}
	at := int64(starts[0]) * SectorSize
	b := make([]byte, at+int64(len(p.material)))
	phdr{encryption: p.encryption, hash: p.Hash, keyBytes: p.KeyBytes, payloadOffset: p.PayloadOffset, uuid: p.UUID, digest: p.digest, sum: p.sum, starts: starts}.write(b)
	writeLUKS1Slot(b, 0, p.slotKDF)
	copy(b[at:], p.material)
	return b, nil
}

// derive returns n bytes derived from the passphrase. The caller wipes them.
func (k kdf) derive(ctx context.Context, passphrase *secrets.Secret, n int) (out []byte, err error) {
	if k.kind != typePBKDF2 {
		return argon2Key(ctx, k, passphrase, n)
	}
	err = passphrase.Use(func(value []byte) error {
		out, err = pbkdf2(ctx, k, value, n)
		return err
	})
	return out, err
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never returns an error: it crashes the program instead
	return b
}
