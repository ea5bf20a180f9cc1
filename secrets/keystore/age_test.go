package keystore_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
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
	must.OK(t, errors.Join(k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential")))))
	storetest.Finds(t, k, d.Reference(), "confidential")
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
	must.Write(t, file, "open sesame")
	uri := "age:" + top + "?protect=passphrase"
	store := must.Get(keystore.Open(uri+"&passphrase-file="+file, keystore.Options{}))(t)
	d := secrets.Document{UUID: uuid.New()}
	k := store.(secrets.Keeper)
	must.OK(t, errors.Join(k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential")))))
	for _, wrong := range []string{"", "&passphrase-file=/nonexistent", "&passphrase-file=-"} {
		store := must.Get(keystore.Open(uri+wrong, keystore.Options{}))(t)
		storetest.Fails(t, store, d.Reference(), secrets.ErrLocked, "")
	}
	storetest.Finds(t, k, d.Reference(), "confidential")
}
