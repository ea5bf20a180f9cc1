package storetest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/storetest"
)

// memory is the smallest store that keeps the contract.
type memory struct {
	mu     sync.Mutex
	values map[secrets.Reference]string
	denied map[secrets.Reference]bool
	broken bool
}

func (m *memory) String() string { return "memory:" }

func (m *memory) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := ctx.Err()
	if err == nil {
		err = ref.Validate()
	}
	value, found := m.values[ref]
	switch {
	case err != nil:
	case m.broken:
		err = secrets.ErrUnreachable
	case m.denied[ref]:
		err = secrets.ErrDenied
	case !found:
		err = secrets.ErrNotFound
	default:
		return secrets.New([]byte(value)), nil
	}
	return nil, &secrets.StoreError{Store: m.String(), Ref: ref, Err: err}
}

func fixture(*testing.T) storetest.Fixture {
	m := &memory{values: map[secrets.Reference]string{}, denied: map[secrets.Reference]bool{}}
	return storetest.Fixture{
		Store: m,
		Put:   func(_ *testing.T, ref secrets.Reference, value []byte) { m.values[ref] = string(value) },
		Deny:  func(_ *testing.T, ref secrets.Reference) { m.denied[ref] = true },
		Break: func(*testing.T) { m.broken = true },
	}
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
	// Output: secret with usage "/var/lib/images/vm1.img": key store memory:: no such secret
}
