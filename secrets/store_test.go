package secrets

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// fixed is a store whose Lookup always returns the same value or error.
type fixed struct {
	name  string
	value string
	err   error
	asked *[]string
}

func (f fixed) Lookup(_ context.Context, ref Reference) (*Secret, error) {
	*f.asked = append(*f.asked, f.name)
	if f.err != nil {
		return nil, &StoreError{Store: f.name, Ref: ref, Err: f.err}
	}
	return New([]byte(f.value)), nil
}

func (f fixed) String() string { return f.name }

func TestChain(t *testing.T) {
	t.Parallel()
	var (
		none    = fixed{name: "test:none", err: ErrNotFound}
		denied  = fixed{name: "test:denied", err: ErrDenied}
		gone    = fixed{name: "test:gone", err: ErrUnreachable}
		odd     = fixed{name: "test:odd", err: errors.New("odd")}
		has     = fixed{name: "test:has", value: "yes"}
		hasMore = fixed{name: "test:more", value: "no"}
	)
	for _, test := range []struct {
		stores []fixed
		asked  string
		err    error
		text   string
	}{
		{nil, "", ErrNotFound, "none configured"},
		{[]fixed{none}, "test:none", ErrNotFound, "test:none"},
		{[]fixed{none, has, hasMore}, "test:none test:has", nil, ""},
		{[]fixed{none, denied, has}, "test:none test:denied", ErrDenied, "test:denied:"},
		{[]fixed{gone, has}, "test:gone", ErrUnreachable, "test:gone:"},
		{[]fixed{odd, has}, "test:odd", odd.err, "test:odd:"},
		{[]fixed{none, none}, "test:none test:none", ErrNotFound, "test:none, test:none"},
	} {
		var asked []string
		var stores []Store
		for _, s := range test.stores {
			s.asked = &asked
			stores = append(stores, s)
		}
		secret, err := Chain(stores...).Lookup(t.Context(), Reference{Type: Passphrase, Usage: "/x"})
		if got := strings.Join(asked, " "); got != test.asked {
			t.Errorf("asked %q, want %q", got, test.asked)
		}
		if test.err == nil {
			if err != nil || string(must.Use(t, secret)) != "yes" {
				t.Errorf("%v, %v", secret, err)
			}
			continue
		}
		var storeError *StoreError
		if secret != nil || !errors.Is(err, test.err) || !errors.As(err, &storeError) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%v: got %v", test.asked, err)
		}
	}
}

func TestChainAsksNobodyInVain(t *testing.T) {
	t.Parallel()
	var asked []string
	c := Chain(fixed{name: "test:has", value: "yes", asked: &asked})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Lookup(ctx, Reference{Type: Passphrase, Usage: "/x"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Lookup(t.Context(), Reference{}); !errors.Is(err, ErrInvalidReference) {
		t.Error(err)
	}
	if len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
}
