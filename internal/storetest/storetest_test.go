package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
)

// memory is a minimal store that fulfils the contract.
type memory struct {
	mu        sync.Mutex
	documents []secrets.Document
	values    map[uuid.UUID]string
	denied    map[uuid.UUID]bool
	broken    error
}

func (m *memory) String() string { return "memory:" }

// locked runs f on the document that ref names.
func (m *memory) locked(ctx context.Context, ref secrets.Reference, f func(d secrets.Document) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := errors.Join(ctx.Err(), ref.Validate(), m.broken)
	if err == nil {
		var d secrets.Document
		if d, err = secrets.Find(m.documents, ref); err == nil {
			err = f(d)
		}
	}
	return m.fail(ref, err)
}

func (m *memory) fail(ref secrets.Reference, err error) error {
	if err == nil {
		return nil
	}
	return &secrets.StoreError{Store: m.String(), Ref: ref, Err: err}
}

func (m *memory) Lookup(ctx context.Context, ref secrets.Reference) (found *secrets.Secret, err error) {
	err = m.locked(ctx, ref, func(d secrets.Document) error {
		value, has := m.values[d.UUID]
		switch {
		case m.denied[d.UUID]:
			return secrets.ErrDenied
		case !has:
			return secrets.ErrNoValue
		}
		found = secrets.New([]byte(value))
		return nil
	})
	return found, err
}

// list lists the secrets; keeper.List exports it.
func (m *memory) list(ctx context.Context) ([]secrets.Document, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(ctx.Err(), m.broken); err != nil {
		return nil, m.fail(secrets.Reference{}, err)
	}
	return slices.Clone(m.documents), nil
}

// keeper is memory that can be changed.
type keeper struct{ *memory }

func (k keeper) List(ctx context.Context) ([]secrets.Document, error) { return k.list(ctx) }

func (k keeper) Define(ctx context.Context, d secrets.Document) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := errors.Join(ctx.Err(), d.Validate(), k.broken)
	if err == nil && d.UUID == uuid.Nil {
		err = secrets.ErrInvalidDocument
	}
	if err == nil {
		err = secrets.CheckDefine(k.documents, d)
	}
	if err != nil {
		return k.fail(d.Reference(), err)
	}
	k.forget(d.UUID)
	k.documents = append(k.documents, d)
	return nil
}

func (k keeper) forget(id uuid.UUID) {
	k.documents = slices.DeleteFunc(k.documents, func(o secrets.Document) bool { return o.UUID == id })
}

func (k keeper) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	return k.locked(ctx, ref, func(d secrets.Document) error {
		return value.Use(func(b []byte) error {
			k.values[d.UUID] = string(b)
			return nil
		})
	})
}

func (k keeper) Remove(ctx context.Context, ref secrets.Reference) error {
	return k.locked(ctx, ref, func(d secrets.Document) error {
		delete(k.values, d.UUID)
		k.forget(d.UUID)
		return nil
	})
}

// fixture returns the fixture of a store that can only look up.
func fixture(*testing.T) storetest.Fixture {
	m := &memory{values: map[uuid.UUID]string{}, denied: map[uuid.UUID]bool{}}
	k := keeper{m}
	return storetest.Fixture{
		Store: m,
		Put: func(t *testing.T, ref secrets.Reference, value []byte) {
			d := secrets.Document{UUID: ref.UUID}
			if d.UUID == uuid.Nil {
				d = secrets.Document{UUID: uuid.New(), Usage: ref.Usage, UsageType: ref.Type.UsageType()}
			}
			m.documents = append(m.documents, d)
			must.OK(t, k.Set(t.Context(), ref, secrets.New(value)))
		},
		Deny: func(t *testing.T, ref secrets.Reference) {
			d := must.Get(secrets.Find(m.documents, ref))(t)
			m.denied[d.UUID] = true
		},
		Lock:  func(*testing.T) { m.broken = secrets.ErrLocked },
		Break: func(*testing.T) { m.broken = secrets.ErrUnreachable },
		Hang:  func(*testing.T) { m.broken = errors.Join(secrets.ErrUnreachable, context.DeadlineExceeded) },
	}
}

// keeperFixture returns the fixture of a store with all optional methods.
func keeperFixture(t *testing.T) storetest.Fixture {
	f := fixture(t)
	k := keeper{f.Store.(*memory)}
	f.Store, f.Put = k, nil
	f.Reopen = func(*testing.T) secrets.Store { return k }
	f.Reboot = func(*testing.T) {
		k.documents = slices.DeleteFunc(k.documents, func(d secrets.Document) bool { return d.Ephemeral })
	}
	return f
}

func TestSuiteAcceptsACorrectKeeper(t *testing.T) {
	t.Parallel()
	storetest.Run(t, keeperFixture)
}

func TestSuiteAcceptsACorrectStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, fixture)
}

func Example() {
	// func TestStore(t *testing.T) { storetest.Run(t, fixture) }
	ref := storetest.ByUsage("/var/lib/images/vm1.img")
	_, err := fixture(nil).Store.Lookup(context.Background(), ref)
	fmt.Println(err)
	// Output: secret with usage "/var/lib/images/vm1.img": key store memory:: no such secret: the key store is empty
}
