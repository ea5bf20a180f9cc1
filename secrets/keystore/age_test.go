package keystore_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestAge(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	path := filepath.Join(top, "with space?")
	name := "age:" + (&url.URL{Path: path}).EscapedPath()
	store, err := keystore.Open(name+"?identity="+url.QueryEscape(filepath.Join(top, "key"))+"&key=hybrid&encoding=hex", keystore.Options{})
	if err != nil || store.String() != name+"?encoding=hex" {
		t.Fatal(store, err)
	}
	d := secrets.Document{UUID: uuid.New()}
	k := store.(secrets.Keeper)
	if err := errors.Join(k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential")))); err != nil {
		t.Fatal(err)
	}
	found, err := k.Lookup(t.Context(), d.Reference())
	if err != nil || !found.Equal(secrets.New([]byte("confidential"))) {
		t.Fatal(err)
	}
	identity, err := os.ReadFile(filepath.Join(top, "key"))
	if err != nil || !strings.HasPrefix(string(identity), "AGE-SECRET-KEY-PQ-1") {
		t.Errorf("no hybrid identity, error %v", err)
	}
}

func TestAgePassphraseFile(t *testing.T) {
	if os.Getenv("LUKSPLUG_LONG") == "" {
		t.Skip("scrypt is slow under the race detector: make test-long runs this")
	}
	t.Parallel()
	top := t.TempDir()
	file := filepath.Join(top, "passphrase")
	if err := os.WriteFile(file, []byte("open sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	uri := "age:" + top + "?protect=passphrase"
	store, err := keystore.Open(uri+"&passphrase-file="+file, keystore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := secrets.Document{UUID: uuid.New()}
	k := store.(secrets.Keeper)
	if err := errors.Join(k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential")))); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", "&passphrase-file=/nonexistent", "&passphrase-file=-"} {
		store, err := keystore.Open(uri+wrong, keystore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Lookup(t.Context(), d.Reference()); !errors.Is(err, secrets.ErrLocked) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	found, err := k.Lookup(t.Context(), d.Reference())
	if err != nil || !found.Equal(secrets.New([]byte("confidential"))) {
		t.Fatal(err)
	}
}

func TestAgeURIs(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{"age:", "age:/x?key=rsa", "age:/x?protect=yes", "age:/x?passphrase=hunter2"} {
		if _, err := keystore.Open(uri, keystore.Options{}); !errors.Is(err, keystore.ErrInvalidURI) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", uri, err)
		}
	}
}
