package masterkey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/luksplug/luksplug/secrets"
)

// ID is the id of the secret object that holds a VM's master key, as libvirt
// names it.
const ID = "masterKey0"

// Size is the size of a master key in bytes.
const Size = 32

// ErrInvalid is wrapped by the errors for data that is not a master key.
var ErrInvalid = errors.New("not a master key")

// Key is a master key. Its methods are safe for concurrent use. It prints as
// [secrets.Redacted].
type Key struct {
	secret  *secrets.Secret
	exposed bool
}

// New returns the key with these bytes and zeroes them. The error wraps [ErrInvalid]
// if there are not exactly [Size] bytes.
func New(value []byte) (*Key, error) {
	if len(value) != Size {
		clear(value)
		return nil, fmt.Errorf("%w: it has %d bytes, and AES-256 needs %d", ErrInvalid, len(value), Size)
	}
	return &Key{secret: secrets.New(value)}, nil
}

// Read reads a key from a file that contains its raw bytes only. The error is that of
// reading the file, or wraps [ErrInvalid] if it is not a regular file of [Size] bytes.
// The caller closes the file.
func Read(f *os.File) (*Key, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is not a regular file", ErrInvalid)
	}
	value := make([]byte, Size+1) // one more, to detect a longer file
	n, err := io.ReadFull(f, value)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		clear(value)
		return nil, err
	}
	if n > Size {
		clear(value)
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrInvalid, Size)
	}
	k, err := New(value[:n])
	if err != nil {
		return nil, err
	}
	const others = 0o007
	k.exposed = info.Mode().Perm()&others != 0
	return k, nil
}

// Exposed reports whether every user of the host may read or change the file that
// the key was read from. Such a key protects no secret from them.
func (k *Key) Exposed() bool { return k.exposed }

// Sealed is an encrypted secret for a secret object of QEMU: its properties data and
// iv, to be given with the key's id as keyid and the format base64. It is not secret.
type Sealed struct {
	Data string // the ciphertext, in base64
	IV   string // the initialisation vector, in base64
}

// Seal encrypts a value under the key with a random initialisation vector. All byte
// values and any length are allowed. After Wipe the error is [secrets.ErrWiped].
func (k *Key) Seal(value []byte) (Sealed, error) {
	var iv [aes.BlockSize]byte
	_, _ = rand.Read(iv[:]) // never fails: it ends the program instead
	return k.seal(iv, value)
}

func (k *Key) seal(iv [aes.BlockSize]byte, value []byte) (Sealed, error) {
	// Encrypted in place, so that no copy of the value remains.
	padding := aes.BlockSize - len(value)%aes.BlockSize
	text := make([]byte, len(value)+padding)
	for i := copy(text, value); i < len(text); i++ {
		text[i] = byte(padding)
	}
	err := k.secret.Use(func(key []byte) error {
		block, err := aes.NewCipher(key)
		if err == nil {
			cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(text, text)
		}
		return err
	})
	if err != nil {
		clear(text)
		return Sealed{}, err
	}
	return Sealed{Data: base64.StdEncoding.EncodeToString(text), IV: base64.StdEncoding.EncodeToString(iv[:])}, nil
}

// Wipe zeroes the key, which cannot be used afterwards. A nil key is allowed.
func (k *Key) Wipe() {
	if k != nil {
		k.secret.Wipe()
	}
}

// Format implements [fmt.Formatter] for every verb and flag.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(secrets.Redacted)) } // fmt ignores the error
