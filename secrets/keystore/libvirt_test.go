package keystore_test

import (
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestLibvirt(t *testing.T) {
	t.Parallel()
	store := must.Get(keystore.Open("libvirt+qemu:///system?socket=/nonexistent", keystore.Options{}))(t)
	storetest.Fails(t, store, storetest.ByUUID(), secrets.ErrUnreachable, "")
}
