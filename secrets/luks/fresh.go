package luks

import (
	"crypto/rand"
	"fmt"

	"github.com/luksplug/luksplug/secrets"
)

// The encryption of a fresh volume is the default of QEMU and cryptsetup: AES with
// 256 bits, for which XTS needs a key of 512 bits.
const (
	freshEncryption = "aes-xts-plain64"
	freshKeyBytes   = 64
)

// FreshSize is the payload offset of a header from [Fresh], in bytes: the end of all
// its key slots, used or not.
const FreshSize = 4040 * SectorSize

// Fresh returns a LUKS1 header of a new volume, with a random volume key, one key
// slot of one PBKDF2 iteration and a random one-time passphrase: an ephemeral header
// without an original. After it has been wiped and the program that opened it no
// longer has the key, the data of the volume is lost.
//
// The payload begins at [FreshSize], which leaves room for all key slots of the
// header. The caller wipes the header.
func Fresh() (*EphemeralHeader, error) {
	e, err := parseEncryption(freshEncryption)
	if err != nil {
		return nil, fmt.Errorf("make a LUKS header: %w", err)
	}
	key := make([]byte, freshKeyBytes)
	defer clear(key)
	_, _ = rand.Read(key) // never returns an error: it crashes the program instead
	v := &volume{encryption: e, keyBytes: freshKeyBytes, payloadOffset: FreshSize}
	header, passphrase, err := v.ephemeral(key)
	if err != nil {
		return nil, fmt.Errorf("make a LUKS header: %w", err)
	}
	return &EphemeralHeader{header: secrets.New(header), passphrase: passphrase}, nil
}
