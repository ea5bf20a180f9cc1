package keystore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// FuzzOpen: a URI gives a store or an error of the documented kinds, and a store's name opens
// a store of the same name.
func FuzzOpen(f *testing.F) {
	for _, uri := range []string{
		"dir:/run/keys?encoding=hex", "dir:/with%3Fmark%20and=more", "vm:", "vm:/run/keys?uuid=" + one, "age:/x?identity=/y&key=hybrid&protect=passphrase",
		"credentials:", "credentials:/x?timeout=5s", "libvirt:?timeout=1s", "libvirt+qemu+ssh://root@host/system?socket=/x", "keyring:?collection=session",
		"barbican+https://kms.example.org:9311/?token-file=/t&project=p", "kmip://[::1]:5696?cert-file=/a&key-file=/b&find=name:disks/{uuid}",
		"pkcs11:token=a;object=disk-{uuid}?module-name=softhsm2&pin-source=file:/run/pin", `exec:["/bin/x","a b"]?encoding=base64`, "exec:'a b' \"c\"",
		"dir:", ":", "age:/%zz", "dir:/a?x=%", "dir:/a#b",
	} {
		f.Add(uri)
	}
	o := keystore.Options{VM: func() string { return other }}
	f.Fuzz(func(t *testing.T, uri string) {
		if strings.Contains(uri, "ca-file") {
			return // a file of this machine
		}
		store, err := keystore.Open(uri, o)
		var unknown *keystore.UnknownSchemeError
		switch {
		case err == nil:
			// Options that a name omits may be needed, so it need not be a valid URI.
			if again, err := keystore.Open(store.String(), o); err == nil && again.String() != store.String() {
				t.Errorf("%q opens %q, which opens %q", uri, store, again)
			}
		case store != nil:
			t.Errorf("%q: a store and the error %v", uri, err)
		case !errors.Is(err, keystore.ErrInvalidURI) && !errors.As(err, &unknown) && !errors.Is(err, pkcs11.ErrNotBuilt):
			t.Errorf("%q: %v", uri, err)
		}
	})
}
