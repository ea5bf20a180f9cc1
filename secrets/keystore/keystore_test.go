package keystore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/secrets/keystore"
)

func Example() {
	store, err := keystore.Open("dir:/run/keys?encoding=base64", keystore.Options{})
	fmt.Println(store, err)
	_, err = keystore.Open("dir:/run/keys?mode=0600", keystore.Options{})
	fmt.Println(err)
	// Output:
	// dir:/run/keys?encoding=base64 <nil>
	// invalid key store URI: of kind dir: unknown parameter mode
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"dir:/run/keys":               "dir:/run/keys",
		"dir:relative":                "dir:relative",
		"dir:/with:colon":             "dir:/with:colon",
		"dir:/with%3Fmark%20and=more": "dir:/with%3Fmark%20and=more",
		"dir:/run/keys?":              "dir:/run/keys",
		"dir:/run/keys?encoding=raw":  "dir:/run/keys",
		"dir:/run/keys?encoding=hex":  "dir:/run/keys?encoding=hex",
	} {
		store, err := keystore.Open(uri, keystore.Options{})
		if err != nil || store.String() != want {
			t.Errorf("%q: %v, %v", uri, store, err)
		}
	}
	for _, uri := range []string{
		"", "dir", "dir:", "/run/keys", "dir:/100%", "dir:/a%00b", "dir:/a#b", "dir:/a?encoding=hex#b",
		"dir:/a?encoding=auto", "dir:/a?encoding=hex&encoding=hex", "dir:/a?Encoding=hex", "dir:/a?x", "dir:/a?x=%zz", "dir:/a?encoding=hex;x=1",
	} {
		if store, err := keystore.Open(uri, keystore.Options{}); !errors.Is(err, keystore.ErrInvalidURI) || store != nil {
			t.Errorf("%q: %v, %v", uri, store, err)
		}
	}
	_, err := keystore.Open("https://user:hunter2@example.org/", keystore.Options{})
	var unknown *keystore.UnknownSchemeError
	if !errors.As(err, &unknown) || unknown.Scheme != "https" || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}
