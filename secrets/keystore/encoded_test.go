package keystore

import (
	"context"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

type answers struct{}

func (answers) String() string { return "test:" }

func (answers) Lookup(_ context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	return nil, &secrets.StoreError{Store: "test:", Ref: ref, Err: secrets.ErrNotFound}
}

type lists struct{ answers }

func (lists) List(context.Context) ([]secrets.Document, error) {
	return []secrets.Document{{UsageType: secrets.UsageTLS, Usage: "x"}}, nil
}

// A store with an encoding implements the same interfaces as the store itself.
func TestEncodedCanWhatTheStoreCan(t *testing.T) {
	t.Parallel()
	l := must.Get(storeuri.Parse("test:?encoding=hex"))(t)
	hex, err := takeEncoding(l)
	if err != nil || hex == nil {
		t.Fatal(hex, err)
	}
	for _, c := range []struct {
		store secrets.Store
		lists bool
	}{{answers{}, false}, {lists{}, true}} {
		s := encoded(c.store, hex)
		lister, isLister := s.(secrets.Lister)
		_, isKeeper := s.(secrets.Keeper)
		if isLister != c.lists || isKeeper {
			t.Errorf("%T: lists %t, keeps %t", c.store, isLister, isKeeper)
		}
		if !isLister {
			continue
		}
		if documents, err := lister.List(t.Context()); len(documents) != 1 || err != nil {
			t.Errorf("%v, %v", documents, err)
		}
	}
}
