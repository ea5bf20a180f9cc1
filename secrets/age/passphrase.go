package age

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strconv"
	_ "unsafe" // for go:linkname

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"
	_ "golang.org/x/crypto/scrypt" // smix

	"github.com/luksplug/luksplug/internal/wipe"
)

// The scrypt stanza (age-encryption.org/v1, section "The scrypt recipient type").
const (
	scryptType        = "scrypt"
	scryptLabel       = "age-encryption.org/v1/scrypt"
	scryptSalt        = 16
	scryptBlock       = 8  // scrypt's r
	defaultWorkFactor = 18 // as age's: a second
	maxWorkFactor     = 22 // as age's: some 15 seconds
	fileKeyLen        = 16
)

// passphraseIdentity is a passphrase in memory of the caller's. age.ScryptIdentity would
// copy it to memory that cannot be wiped.
type passphraseIdentity []byte

// Unwrap implements [age.Identity].
func (p passphraseIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type != scryptType {
			continue
		}
		if len(stanzas) != 1 {
			return nil, errors.New("a passphrase must be the only recipient of a file")
		}
		return p.unwrap(s)
	}
	return nil, fmt.Errorf("%w: it is not encrypted to a passphrase", age.ErrIncorrectIdentity)
}

func (p passphraseIdentity) unwrap(s *age.Stanza) ([]byte, error) {
	invalid := errors.New("its scrypt recipient is invalid")
	if len(s.Args) != 2 || len(s.Body) != fileKeyLen+chacha20poly1305.Overhead {
		return nil, invalid
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(s.Args[0])
	if err != nil || len(salt) != scryptSalt {
		return nil, invalid
	}
	factor, err := strconv.Atoi(s.Args[1])
	switch {
	case err != nil || factor <= 0 || strconv.Itoa(factor) != s.Args[1]:
		return nil, invalid
	case factor > maxWorkFactor:
		return nil, fmt.Errorf("its scrypt work factor, %d, is too large", factor)
	}
	key := p.derive(salt, factor)
	defer clear(key)
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	fileKey, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), s.Body, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: the passphrase is wrong", age.ErrIncorrectIdentity)
	}
	return fileKey, nil
}

// passphraseRecipient is the recipient that belongs to a passphraseIdentity.
type passphraseRecipient struct {
	passphrase passphraseIdentity
	workFactor int
}

// Wrap implements [age.Recipient].
func (r passphraseRecipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	salt := make([]byte, scryptSalt)
	_, _ = rand.Read(salt) // never fails
	key := r.passphrase.derive(salt, r.workFactor)
	defer clear(key)
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	body := aead.Seal(nil, make([]byte, chacha20poly1305.NonceSize), fileKey, nil)
	return []*age.Stanza{{Type: scryptType, Args: []string{base64.RawStdEncoding.EncodeToString(salt), strconv.Itoa(r.workFactor)}, Body: body}}, nil
}

// derive is scrypt (RFC 7914) with p = 1 and the passphrase as the password, which
// scrypt.Key would copy.
func (p passphraseIdentity) derive(salt []byte, workFactor int) []byte {
	n := 1 << workFactor
	b := make([]byte, 128*scryptBlock)
	p.pbkdf2(b, append([]byte(scryptLabel), salt...))
	defer clear(b)
	v, xy := make([]uint32, 32*n*scryptBlock), make([]uint32, 64*scryptBlock)
	smix(b, scryptBlock, n, v, xy)
	clear(v)
	clear(xy)
	key := make([]byte, chacha20poly1305.KeySize)
	p.pbkdf2(key, b)
	return key
}

//go:linkname smix golang.org/x/crypto/scrypt.smix
func smix(b []byte, r, n int, v, xy []uint32)

// pbkdf2 fills out, a multiple of 32 bytes, by PBKDF2-HMAC-SHA-256 with one iteration.
func (p passphraseIdentity) pbkdf2(out, salt []byte) {
	h := sha256.New()
	defer wipe.Value(h)
	var pad [sha256.BlockSize]byte
	defer clear(pad[:])
	if len(p) > len(pad) {
		wipe.Stack(func() {
			_, _ = h.Write(p) // never fails, here and below
			h.Sum(pad[:0])
		})
	} else {
		copy(pad[:], p)
	}
	for i := range len(out) / sha256.Size {
		block := out[i*sha256.Size:][:sha256.Size]
		hmacPart(h, &pad, 0x36, salt, binary.BigEndian.AppendUint32(nil, uint32(i+1)))
		h.Sum(block[:0])
		hmacPart(h, &pad, 0x5c, block)
		h.Sum(block[:0])
	}
}

// hmacPart hashes the key with one of HMAC's paddings (RFC 2104), and the message.
func hmacPart(h hash.Hash, key *[sha256.BlockSize]byte, padding byte, message ...[]byte) {
	h.Reset()
	for i := range key {
		key[i] ^= padding
	}
	_, _ = h.Write(key[:])
	for i := range key {
		key[i] ^= padding
	}
	for _, m := range message {
		_, _ = h.Write(m)
	}
}
