package luks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/luksplug/luksplug/secrets/luks"
)

func Example() {
	header, err := luks.ReadHeader(bytes.NewReader(synthetic()))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(header)
	fmt.Println("payload at byte", header.PayloadOffset(), "key slots", header.ActiveSlots())

	_, err = luks.ReadHeader(strings.NewReader("plain text"))
	fmt.Println(err, errors.Is(err, luks.ErrNotLUKS))
	// Output:
	// LUKS1 aes-xts-plain64 sha256, 512-bit key, 1 of 8 key slots in use
	// payload at byte 2097152 key slots [0]
	// not a LUKS header true
}

// From a passphrase to the header for QEMU.
func ExampleEphemeral() {
	prepare := func(path string, passphrase []byte) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		header, err := luks.ReadHeader(f)
		if err != nil {
			return err
		}
		key, err := header.Unlock(context.Background(), passphrase)
		if err != nil {
			return err
		}
		defer key.Wipe()
		ephemeral, err := luks.Ephemeral(key)
		if err != nil {
			return err
		}
		defer ephemeral.Wipe()
		fmt.Println(ephemeral.Len(), "bytes, passphrase", ephemeral.Passphrase())
		return ephemeral.Use(func(header []byte) error {
			return nil // write header to a memfd
		})
	}
	fmt.Println(prepare("testdata/aes-cbc.luks2", []byte("test passphrase")))
	fmt.Println(prepare("testdata/aes-cbc.luks2", []byte("wrong")))
	// Output:
	// 69632 bytes, passphrase [redacted]
	// <nil>
	// unlock the LUKS header: wrong passphrase: it opens none of the key slots that were tried: [0]
}
