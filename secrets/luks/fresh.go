package luks

import (
	"crypto/rand"
	"fmt"

	"github.com/luksplug/luksplug/secrets"
)

// What a fresh volume is encrypted with is what QEMU and cryptsetup take by
// default: AES with 256 bits, which is a key of twice that in XTS.
const (
	freshEncryption = "aes-xts-plain64"
	freshKeyBytes   = 64
)

// FreshSize is the payload offset of a header that [Fresh] makes, in bytes: all
// its key slots end there, used or not.
const FreshSize = 4040 * SectorSize

// Fresh returns a LUKS1 header of a new volume, under a random volume key that
// nobody has, with one key slot of one PBKDF2 iteration and a random one-time
// passphrase: an ephemeral header that replaces no other one. When it has
// been wiped, and the program that opened it has forgotten the key, what was written to
// the volume is gone.
//
// The payload begins at [FreshSize], so that there is room for all that the header
// speaks of. The caller wipes the header.
func Fresh() (*EphemeralHeader, error) {
	e, err := parseEncryption(freshEncryption)
	if err != nil {
		return nil, fmt.Errorf("make a LUKS header: %w", err)
	}
	key := make([]byte, freshKeyBytes)
	defer clear(key)
	_, _ = rand.Read(key) // ends the program rather than fail
	v := &volume{encryption: e, keyBytes: freshKeyBytes, payloadOffset: FreshSize}
	header, passphrase, err := v.ephemeral(key)
	if err != nil {
		return nil, fmt.Errorf("make a LUKS header: %w", err)
	}
	return &EphemeralHeader{header: secrets.New(header), passphrase: passphrase}, nil
}
