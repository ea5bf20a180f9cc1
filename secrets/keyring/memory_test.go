package keyring_test

import (
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keyring"
)

// TestNoValueIsLeftInMemory: package keystore has this test for the other stores.
func TestNoValueIsLeftInMemory(t *testing.T) {
	const address, secretID = "LUKSPLUG_MEMTEST_ADDRESS", "LUKSPLUG_MEMTEST_SECRET"
	if s := memtest.Child(); s != nil {
		id := must.Get(uuid.Parse(os.Getenv(secretID)))(t)
		memtest.Store(t, s, keyring.New(keyring.Options{Address: os.Getenv(address)}), secrets.Document{UUID: id}.Reference())
		return
	}
	desk, v, d := newDesktop(t), memtest.NewValue(), secrets.Document{UUID: uuid.New()}
	k := keyring.New(keyring.Options{Address: desk.address})
	must.OK(t, k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New(append([]byte(nil), v.Bytes...))))
	v.Run(t, address+"="+desk.address, secretID+"="+d.UUID.String())
}
