package keystore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestLibvirt(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"libvirt:":            "libvirt+qemu:///system",
		"libvirt:?timeout=1s": "libvirt+qemu:///system",
		"libvirt+qemu:///session?socket=/no/such":   "libvirt+qemu:///session?socket=/no/such",
		"libvirt+qemu+ssh://root@host/system":       "libvirt+qemu+ssh://root@host/system",
		"libvirt+qemu:///session?socket=%2Fno&":     "libvirt+qemu:///session?socket=/no",
		"libvirt+qemu:///system?encoding=hex&":      "libvirt+qemu:///system?encoding=hex",
		"libvirt+qemu+tls://h:1/system?no_verify=0": "libvirt+qemu+tls://h:1/system?no_verify=0",
	} {
		store, err := keystore.Open(uri, keystore.Options{})
		if err != nil || store.String() != want {
			t.Errorf("%s: %v, %v", uri, store, err)
			continue
		}
		if _, ok := store.(secrets.Lister); !ok {
			t.Errorf("%s cannot be listed", uri)
		}
	}
	for _, uri := range []string{
		"libvirt:qemu:///system", "libvirt+:", "libvirt+qemu:system", "libvirt+qemu+tcp://host/system", "libvirt+qemu://a:hunter2@%zz/system", "libvirt:?colour=red", "libvirt+test:///default", "libvirt+qemu+ssh://a:hunter2@host/system",
	} {
		_, err := keystore.Open(uri, keystore.Options{})
		var unknown *keystore.UnknownSchemeError
		if !errors.Is(err, keystore.ErrInvalidURI) && !errors.As(err, &unknown) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", uri, err)
		}
	}
	store := must.Get(keystore.Open("libvirt+qemu:///system?socket=/nonexistent", keystore.Options{}))(t)
	if _, err := store.Lookup(t.Context(), storetest.ByUUID()); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
}
