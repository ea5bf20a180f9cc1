package keystore_test

import (
	"errors"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestLibvirt(t *testing.T) {
	t.Parallel()
	store := must.Get(keystore.Open("libvirt+qemu:///system?socket=/nonexistent", keystore.Options{}))(t)
	if _, err := store.Lookup(t.Context(), storetest.ByUUID()); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
}
