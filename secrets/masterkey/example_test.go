package masterkey_test

import (
	"fmt"
	"log"

	"github.com/luksplug/luksplug/secrets/masterkey"
)

// The ciphertext differs each time, because each has a different initialisation
// vector; its length is a multiple of 16 bytes.
func Example() {
	key, err := masterkey.New(make([]byte, masterkey.Size)) // a real one is random
	if err != nil {
		log.Fatal(err)
	}
	defer key.Wipe()
	first, err := key.Seal([]byte("passphrase"))
	if err != nil {
		log.Fatal(err)
	}
	second, err := key.Seal([]byte("passphrase"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key, len(first.Data), first.Data != second.Data)
	// Output: [redacted] 24 true
}
