//go:build pkcs11 && cgo

package pkcs11_test

import (
	"context"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// TestNoValueIsLeftInMemory: package keystore has this test for the other stores. The memory
// includes that of the module, SoftHSM.
func TestNoValueIsLeftInMemory(t *testing.T) {
	const uri, secretID, wrapped = "LUKSPLUG_MEMTEST_URI", "LUKSPLUG_MEMTEST_SECRET", "LUKSPLUG_MEMTEST_WRAPPED"
	for _, name := range []string{"data objects", "wrapped files"} {
		t.Run(name, func(t *testing.T) {
			if s := memtest.Child(); s != nil {
				u := must.Get(pkcs11.ParseURI(os.Getenv(uri)))(t)
				store := open[secrets.Store](t, pkcs11.Options{URI: u, Dir: os.Getenv(wrapped), PIN: pin(rightPIN)})
				memtest.Store(t, s, store, secrets.Document{UUID: must.Get(uuid.Parse(os.Getenv(secretID)))(t)}.Reference())
				return
			}
			c, v, d := newCard(t), memtest.NewValue(), secrets.Document{UUID: uuid.New()}
			more, dir := "", ""
			if name == "wrapped files" {
				c.addKey(t, "kek")
				more, dir = ";object=kek", t.TempDir()
			}
			o := c.options(t, more)
			o.Dir = dir
			k := open[secrets.Keeper](t, o)
			must.OK(t, k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New(append([]byte(nil), v.Bytes...))))
			v.Run(t, uri+"=pkcs11:token="+c.label+more+"?module-path="+c.module, secretID+"="+d.UUID.String(), wrapped+"="+dir)
		})
	}
}

// TestNoPINIsLeftInMemory: the store keeps the PIN that the token has accepted, in memory for
// secrets, and no other copy of it.
func TestNoPINIsLeftInMemory(t *testing.T) {
	const uri = "LUKSPLUG_MEMTEST_URI"
	if s := memtest.Child(); s != nil {
		u := must.Get(pkcs11.ParseURI(os.Getenv(uri)))(t)
		store := open[secrets.Store](t, pkcs11.Options{URI: u, PIN: func(context.Context, string) (*secrets.Secret, error) {
			return secrets.New(s.Copy()), nil
		}})
		if _, err := store.Lookup(t.Context(), secrets.Document{UUID: uuid.New()}.Reference()); err == nil {
			t.Fatal("a wrong PIN was accepted")
		}
		s.Nothing(t, "after a wrong PIN")
		return
	}
	v := memtest.NewValue()
	v.Run(t, uri+"=pkcs11:token="+newCard(t).label+"?module-path="+newCard(t).module)
}
