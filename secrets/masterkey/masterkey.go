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

// ID is the id of the secret object that holds a VM's master key: the one that
// libvirt uses.
const ID = "masterKey0"

// Size is the size of a master key in bytes.
const Size = 32

// ErrInvalid is wrapped by the errors about a file that is no master key.
var ErrInvalid = errors.New("it is no master key")

// Key is a master key. Its methods may be called from several goroutines. It
// prints as [secrets.Redacted].
type Key struct {
	secret  *secrets.Secret
	exposed bool
}

// New returns the key of these bytes and zeroes them. Other than [Size] bytes are
// an error that wraps [ErrInvalid].
func New(value []byte) (*Key, error) {
	if len(value) != Size {
		clear(value)
		return nil, fmt.Errorf("%w: it has %d bytes, and AES-256 takes %d", ErrInvalid, len(value), Size)
	}
	return &Key{secret: secrets.New(value)}, nil
}

// Read reads the key that a file holds, as raw bytes and nothing else. The errors
// are those of reading it, and for what is not a regular file of [Size] bytes one
// that wraps [ErrInvalid]. The caller closes the file.
func Read(f *os.File) (*Key, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is not a regular file", ErrInvalid)
	}
	value := make([]byte, Size+1) // one more, to see that there is no more
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

// Exposed reports whether every user of the host may read or replace the file that
// the key was read from. Such a key hides nothing from them.
func (k *Key) Exposed() bool { return k.exposed }

// Sealed is a secret as a secret object of QEMU takes it: with these two, the
// key's id as the keyid, and base64 as the format. It is no secret any more.
type Sealed struct {
	Data string // the ciphertext, in base64
	IV   string // the initialisation vector, in base64
}

// Seal encrypts a value under the key with an initialisation vector of its own. All
// byte values are allowed, and any length. The error is [secrets.ErrWiped] after
// Wipe.
func (k *Key) Seal(value []byte) (Sealed, error) {
	var iv [aes.BlockSize]byte
	_, _ = rand.Read(iv[:]) // never fails: it ends the program instead
	return k.seal(iv, value)
}

func (k *Key) seal(iv [aes.BlockSize]byte, value []byte) (Sealed, error) {
	// Encrypted in place, so that no copy of the value stays behind.
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

// Wipe overwrites the key, which cannot be used after it. A nil key is allowed.
func (k *Key) Wipe() {
	if k != nil {
		k.secret.Wipe()
	}
}

// Format implements [fmt.Formatter] for every verb and flag.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(secrets.Redacted)) } // fmt ignores the error
