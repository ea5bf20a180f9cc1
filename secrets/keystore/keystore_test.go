package keystore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/secrets/keystore"
)

func Example() {
	store, err := keystore.Open("dir:/run/keys")
	fmt.Println(store, err)
	_, err = keystore.Open("vault:secret/vm1")
	fmt.Println(err)
	// Output:
	// dir:/run/keys <nil>
	// unknown kind of key store "vault": known are dir:PATH
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{"dir:/run/keys", "dir:relative", "dir:/with:colon?and=more"} {
		store, err := keystore.Open(uri)
		if err != nil || store.String() != uri {
			t.Errorf("%q: %v, %v", uri, store, err)
		}
	}
	for _, uri := range []string{"", "dir", "dir:", "/run/keys"} {
		if store, err := keystore.Open(uri); !errors.Is(err, keystore.ErrInvalidURI) || store != nil {
			t.Errorf("%q: %v, %v", uri, store, err)
		}
	}
	_, err := keystore.Open("https://user:hunter2@example.org/")
	var unknown *keystore.UnknownSchemeError
	if !errors.As(err, &unknown) || unknown.Scheme != "https" || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}
