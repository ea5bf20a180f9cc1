package secrets_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func Example() {
	// A directory with one secret in it.
	dir, err := os.MkdirTemp("", "secrets")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	const id = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"
	if err := os.WriteFile(filepath.Join(dir, id), []byte("correct horse"), 0o600); err != nil {
		log.Fatal(err)
	}

	// The command does the same for --keystore and a disk's <secret uuid=...>.
	store, err := keystore.Open("dir:"+dir, keystore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	uuid, err := secrets.ParseUUID(id)
	if err != nil {
		log.Fatal(err)
	}
	ref := secrets.Reference{Type: secrets.Passphrase, UUID: uuid}
	secret, err := secrets.Chain(store).Lookup(context.Background(), ref)
	if err != nil {
		log.Fatal(err)
	}
	defer secret.Wipe()
	fmt.Printf("%s: %s, %d bytes\n", ref, secret, secret.Len())
	// Output: uuid 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f: [redacted], 13 bytes
}
