//go:build pkcs11 && cgo

package pkcs11_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/opened"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// TestUnlock: once unlocked, a store that cannot ask for the PIN finds its secrets. A PIN
// that the token refuses later is tried once.
func TestUnlock(t *testing.T) {
	if err := opened.Check(); err != nil {
		t.Skipf("the kernel keeps no keys here: %v", err)
	}
	c := newCard(t)
	with := func(answer func(context.Context, string) (*secrets.Secret, error)) *pkcs11.Store {
		o := c.options(t, "")
		o.PIN = answer
		return open[*pkcs11.Store](t, o)
	}
	d := secrets.Document{UUID: uuid.New()}
	right := with(pin(rightPIN))
	must.OK(t, right.Define(t.Context(), d), right.Set(t.Context(), d.Reference(), secret("confidential")))
	locked := secrets.LockState{Protected: true}
	hook := func() *pkcs11.Store { return with(nil) }
	state := func(want secrets.LockState) {
		t.Helper()
		if got := must.Get(hook().LockState(t.Context()))(t); got != want {
			t.Errorf("state %+v, want %+v", got, want)
		}
	}
	t.Cleanup(func() { must.Get(hook().Lock(context.Background()))(t) })
	state(locked)
	storetest.Fails(t, hook(), d.Reference(), secrets.ErrPassphrase, "unlock the store")
	if _, err := with(pin("9999")).Unlock(t.Context(), secrets.Limit{}); !errors.Is(err, secrets.ErrWrongPassphrase) {
		t.Error(err)
	}
	state(locked)
	if _, err := hook().Unlock(t.Context(), secrets.Limit{}); !errors.Is(err, secrets.ErrPassphrase) {
		t.Error(err)
	}
	unlocked := must.Get(right.Unlock(t.Context(), secrets.Limit{}))(t)
	state(unlocked)
	store := hook()
	for range 2 {
		storetest.Finds(t, store, d.Reference(), "confidential")
	}
	if was := must.Get(store.Lock(t.Context()))(t); !was {
		t.Error("it was not unlocked")
	}
	storetest.Fails(t, store, d.Reference(), secrets.ErrPassphrase, "PIN")

	must.Get(right.Unlock(t.Context(), secrets.Limit{}))(t)
	c.changePIN(t, rightPIN, "4321")
	defer c.changePIN(t, "4321", rightPIN)
	storetest.Fails(t, hook(), d.Reference(), secrets.ErrDenied, "PIN is wrong")
	state(locked)
	storetest.Fails(t, hook(), d.Reference(), secrets.ErrPassphrase, "unlock the store")
}
