package keystore_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestExec(t *testing.T) {
	t.Parallel()
	const uri = `exec:/bin/sh -c 'f=$LUKSPLUG_SECRET_USAGE; [ "$f" = /x%3F ] || exit 2; echo "for $f" >&2; printf %25s 6869'`
	var messages bytes.Buffer
	store, err := keystore.Open(uri+"?encoding=hex&timeout=1m", keystore.Options{Stderr: &messages})
	if err != nil || store.String() != uri+"?encoding=hex" {
		t.Fatal(store, err)
	}
	secret, err := store.Lookup(t.Context(), storetest.ByUsage("/x?"))
	if err != nil || !secret.Equal(secrets.New([]byte("hi"))) || messages.String() != "for /x?\n" {
		t.Error(secret, err, &messages)
	}
	storetest.Fails(t, store, storetest.ByUsage("/y"), secrets.ErrNotFound, "")
}

func TestCredentials(t *testing.T) {
	// Not parallel: it changes the environment.
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for uri, want := range map[string]error{
		"credentials:":                    secrets.ErrNotFound,
		"credentials:" + dir:              secrets.ErrNotFound,
		"credentials:/none?timeout=1s":    secrets.ErrUnreachable,
		"credentials:/with%20space?":      secrets.ErrUnreachable,
		"credentials:/x?encoding=base64&": secrets.ErrUnreachable,
	} {
		store := must.Get(keystore.Open(uri, keystore.Options{}))(t)
		_, err := store.Lookup(t.Context(), storetest.ByUUID())
		if !errors.Is(err, want) || !strings.HasPrefix(uri, strings.TrimSuffix(store.String(), "?encoding=base64")) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
