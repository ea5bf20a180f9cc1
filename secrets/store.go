package secrets

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// What a [Store] answers other than a secret. Test with [errors.Is].
var (
	// ErrNotFound: the store works and does not have the secret. Another
	// store may.
	ErrNotFound = errors.New("no such secret")
	// ErrDenied: the secret may well be there, but this caller may not have
	// it, or the store is not safe to take it from. Asking again is useless
	// until somebody changes permissions.
	ErrDenied = errors.New("access denied")
	// ErrUnreachable: the store could not be asked: the server is gone, the
	// folder does not exist. Asking again later may help.
	ErrUnreachable = errors.New("the key store cannot be reached")
)

// Store is a place where secrets are kept.
type Store interface {
	// Lookup returns the secret that ref names. The Secret is the caller's
	// own: every call makes a new one, and the caller wipes it. Its bytes
	// are exactly those that were stored.
	//
	// Lookup changes nothing in the store and may be repeated. It may be
	// called from several goroutines at once. It returns soon after ctx
	// ends, with an error that wraps ctx.Err().
	//
	// Every error is a *StoreError. It wraps ErrNotFound only where the
	// store is sure that it does not have the secret; ErrDenied where it may
	// not be read; ErrUnreachable where the store could not be asked;
	// ErrInvalidReference for a ref that does not validate. No error text
	// holds bytes of a secret.
	Lookup(ctx context.Context, ref Reference) (*Secret, error)

	// String names the store for people, as the URI that opens it, without
	// any password that the URI holds.
	String() string
}

// StoreError says which store failed to give which secret.
type StoreError struct {
	Store string // Store.String of the store
	Ref   Reference
	Err   error
}

// Error implements error.
func (e *StoreError) Error() string {
	return fmt.Sprintf("secret with %s: key store %s: %v", e.Ref, e.Store, e.Err)
}

// Unwrap returns e.Err.
func (e *StoreError) Unwrap() error { return e.Err }

// Chain returns a store that asks the given ones in order. A store that does
// not have the secret is passed over. Any other error ends the search and names
// its store: going on after "denied" or "unreachable" could hand out an older
// value from a later store. With no stores, nothing is ever found.
func Chain(stores ...Store) Store {
	return chain(append([]Store(nil), stores...))
}

type chain []Store

func (c chain) Lookup(ctx context.Context, ref Reference) (*Secret, error) {
	fail := func(err error) (*Secret, error) {
		return nil, &StoreError{Store: c.String(), Ref: ref, Err: err}
	}
	if err := ref.Validate(); err != nil {
		return fail(err)
	}
	for _, store := range c {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		secret, err := store.Lookup(ctx, ref)
		if err == nil {
			return secret, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err // names its store already
		}
	}
	return fail(ErrNotFound)
}

func (c chain) String() string {
	if len(c) == 0 {
		return "(none configured)"
	}
	names := make([]string, len(c))
	for i, store := range c {
		names[i] = store.String()
	}
	return strings.Join(names, ", ")
}
