package masterkey

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	b := must.Get(hex.DecodeString(text))(t)
	return b
}

// TestVector checks NIST SP 800-38A, F.2.5 (CBC-AES256.Encrypt). The padding adds
// one block.
func TestVector(t *testing.T) {
	t.Parallel()
	k := must.Get(New(bytesOf(t, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")))(t)
	defer k.Wipe()
	var iv [aes.BlockSize]byte
	copy(iv[:], bytesOf(t, "000102030405060708090a0b0c0d0e0f"))
	got := must.Get(k.seal(iv, bytesOf(t, "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")))(t)
	text, err := base64.StdEncoding.DecodeString(got.Data)
	want := bytesOf(t, "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d")
	if err != nil || len(text) != len(want)+aes.BlockSize || !bytes.HasPrefix(text, want) {
		t.Errorf("%x, error %v, want %x and the padding", text, err, want)
	}
	if got.IV != base64.StdEncoding.EncodeToString(iv[:]) {
		t.Errorf("IV %s", got.IV)
	}
}

// TestSeal decrypts sealed values of every length up to three blocks, and checks
// that no initialisation vector repeats.
func TestSeal(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, Size)
	k := must.Get(New(bytes.Clone(key)))(t)
	block := must.Get(aes.NewCipher(key))(t)
	vectors := map[string]bool{}
	for n := range 3*aes.BlockSize + 1 {
		value := bytes.Repeat([]byte{0, '\n', 0xff}, n)[:n]
		s := must.Get(k.Seal(value))(t)
		text, err1 := base64.StdEncoding.DecodeString(s.Data)
		iv, err2 := base64.StdEncoding.DecodeString(s.IV)
		must.OK(t, errors.Join(err1, err2))
		cipher.NewCBCDecrypter(block, iv).CryptBlocks(text, text)
		padding := int(text[len(text)-1])
		if want := append(bytes.Clone(value), bytes.Repeat([]byte{byte(padding)}, padding)...); padding < 1 || padding > aes.BlockSize || !bytes.Equal(text, want) {
			t.Errorf("%d bytes became %x", n, text)
		}
		if vectors[s.IV] {
			t.Errorf("the initialisation vector %s is repeated", s.IV)
		}
		vectors[s.IV] = true
	}
	k.Wipe()
	if _, err := k.Seal([]byte("late")); !errors.Is(err, secrets.ErrWiped) {
		t.Errorf("after Wipe: %v", err)
	}
	(*Key)(nil).Wipe()
}

func TestRead(t *testing.T) {
	t.Parallel()
	read := func(t *testing.T, path string) (*Key, error) {
		t.Helper()
		f := must.Get(os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0))(t)
		defer func() { _ = f.Close() }() // only read
		return Read(f)
	}
	for _, n := range []int{0, 1, Size - 1, Size + 1, 4096} {
		path := must.File(t, make([]byte, n))
		if _, err := read(t, path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	must.OK(t, unix.Mkfifo(fifo, 0o600))
	for _, path := range []string{fifo, t.TempDir(), "/dev/zero"} {
		if _, err := read(t, path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for mode, exposed := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o604: true, 0o602: true} {
		path := must.File(t, bytes.Repeat([]byte{'k'}, Size))
		must.OK(t, os.Chmod(path, mode))
		k, err := read(t, path)
		if err != nil || k.Exposed() != exposed {
			t.Errorf("mode %v: exposed is not %v, error %v", mode, exposed, err)
			continue
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			if got := fmt.Sprintf(verb, k); got != secrets.Redacted {
				t.Errorf("%s prints %s", verb, got)
			}
		}
		k.Wipe()
	}
}
