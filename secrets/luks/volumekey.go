package luks

import (
	"fmt"

	"github.com/luksplug/luksplug/secrets"
)

// VolumeKey is the key that encrypts a payload, verified against the digest of the
// header that it was unlocked from. It is stored like a [secrets.Secret] in locked
// memory outside of core files, and prints as "[redacted]". Wipe it when done. It is
// safe for concurrent use.
type VolumeKey struct {
	key    *secrets.Secret
	slot   int
	volume *volume
}

// Use calls f with the key's bytes, as [secrets.Secret.Use] does: f must not keep,
// change or print them.
func (k *VolumeKey) Use(f func(key []byte) error) error { return k.key.Use(f) }

// Len returns the number of bytes; 0 after Wipe.
func (k *VolumeKey) Len() int { return k.key.Len() }

// Slot returns the number of the key slot that the passphrase opened.
func (k *VolumeKey) Slot() int { return k.slot }

// VolumeUUID returns the UUID of the header that the key is from.
func (k *VolumeKey) VolumeUUID() string { return k.volume.uuid }

// Encryption returns the encryption of the payload in the notation of LUKS:
// "aes-xts-plain64".
func (k *VolumeKey) Encryption() string { return k.volume.encryption.String() }

// PayloadOffset returns the offset of the payload in bytes, like
// [Header.PayloadOffset].
func (k *VolumeKey) PayloadOffset() int64 { return k.volume.payloadOffset }

// Wipe zeroes the key. Calling it again, or on nil, does nothing.
func (k *VolumeKey) Wipe() {
	if k != nil {
		k.key.Wipe()
	}
}

// Format implements [fmt.Formatter] for every verb and flag.
func (k VolumeKey) Format(f fmt.State, _ rune) {
	// fmt.State never fails, and Format could not report it.
	_, _ = f.Write([]byte(secrets.Redacted))
}

// MarshalText returns [secrets.Redacted].
func (k VolumeKey) MarshalText() ([]byte, error) { return []byte(secrets.Redacted), nil }
