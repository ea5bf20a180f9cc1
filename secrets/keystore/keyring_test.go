package keystore_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestKeyring(t *testing.T) {
	// Not parallel: it changes the environment.
	dir := must.Dir(t, "")
	listener := must.Get(net.Listen("unix", filepath.Join(dir, "bus")))(t)
	t.Cleanup(func() { _ = listener.Close() }) // the test is over
	for _, c := range []struct{ address, runtime, text string }{
		{"", "", "DBUS_SESSION_BUS_ADDRESS is not set"},
		{"", "/nonexistent", "DBUS_SESSION_BUS_ADDRESS is not set"},
		{"unix:path=/nonexistent", dir, "/nonexistent"},
		{"", dir, "not answered after 100ms"},
	} {
		t.Setenv("DBUS_SESSION_BUS_ADDRESS", c.address)
		t.Setenv("XDG_RUNTIME_DIR", c.runtime)
		store, err := keystore.Open("keyring:?collection=session&timeout=100ms", keystore.Options{})
		if err != nil || store.String() != "keyring:" {
			t.Fatal(store, err)
		}
		storetest.Fails(t, store, storetest.ByUUID(), secrets.ErrUnreachable, c.text)
	}
}
