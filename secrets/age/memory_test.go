package age_test

import (
	"context"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/internal/opened"
)

// TestNoPassphraseOfAnIdentityIsLeftInMemory: package keystore has this test for values.
func TestNoPassphraseOfAnIdentityIsLeftInMemory(t *testing.T) {
	const directory, workFactor = "LUKSPLUG_MEMTEST_DIRECTORY", 8
	d := secrets.Document{UUID: uuid.NewSHA1(uuid.Nil, []byte("memory"))}
	protected := func(dir string, passphrase func() []byte) *age.Store {
		return age.New(dir, age.Options{Protect: true, WorkFactor: workFactor, Passphrase: func(context.Context, string) (*secrets.Secret, error) {
			return secrets.New(passphrase()), nil
		}})
	}
	if s := memtest.Child(); s != nil {
		found := must.Get(protected(os.Getenv(directory), s.Copy).Lookup(t.Context(), d.Reference()))(t)
		found.Wipe()
		s.Nothing(t, "after the identity was opened")
		store := protected(t.TempDir(), s.Copy)
		must.OK(t, store.Define(t.Context(), d))
		s.Nothing(t, "after an identity was made")
		if opened.Check() == nil {
			unlocked := protected(os.Getenv(directory), s.Copy)
			must.Get(unlocked.Unlock(t.Context(), secrets.Limit{}))(t)
			must.Get(unlocked.Lock(t.Context()))(t)
			s.Nothing(t, "after the store was unlocked")
		}
		return
	}
	v, dir := memtest.NewValue(), t.TempDir()
	store := protected(dir, func() []byte { return append([]byte(nil), v.Bytes...) })
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential"))))
	v.Run(t, directory+"="+dir)
}
