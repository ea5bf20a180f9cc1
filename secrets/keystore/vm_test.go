package keystore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestVM(t *testing.T) {
	t.Parallel()
	const one, other = "3e3fce45-4f53-4fa7-bb32-11f34168b82b", "6695eb01-f6a4-8304-79aa-97f2502e193f"
	o := keystore.Options{VM: func() string { return other }}
	for uri, want := range map[string]string{
		"vm:":                                   "vm:/run/luksplug/keys?uuid=" + other,
		"vm:/run/keys%20here":                   "vm:/run/keys%20here?uuid=" + other,
		"vm:?uuid=" + strings.ToUpper(one):      "vm:/run/luksplug/keys?uuid=" + one,
		"vm:/run/keys?encoding=hex&uuid=" + one: "vm:/run/keys?uuid=" + one,
	} {
		store, err := keystore.Open(uri, o)
		if err != nil || !strings.HasPrefix(store.String(), want) {
			t.Errorf("%s: got %v (%v), want %s", uri, store, err, want)
		}
	}
	if store, err := keystore.Open("vm:", keystore.Options{}); err != nil || store.String() != "vm:/run/luksplug/keys" {
		t.Errorf("without a VM: %v %v", store, err)
	}
	for _, uri := range []string{"vm:keys", "vm:?uuid=vm1", "vm:?vm=" + one} {
		if store, err := keystore.Open(uri, o); !errors.Is(err, keystore.ErrInvalidURI) {
			t.Errorf("%s: got %v (%v)", uri, store, err)
		}
	}
}
