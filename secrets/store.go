package secrets

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Errors of a [Store]. Test with [errors.Is].
var (
	// ErrNotFound: the store was queried and does not have the secret.
	// Another store may have it.
	ErrNotFound = errors.New("no such secret")
	// ErrNoValue: the secret is defined in this store but has no value yet.
	// [Chain] does not search further.
	ErrNoValue = errors.New("the secret has no value yet")
	// ErrWrongType: the usage type of the secret does not match the type of
	// the reference.
	ErrWrongType = errors.New("the secret is of another type")
	// ErrDenied: this caller may not read the secret, whether it exists or
	// not, or the store's permissions are unsafe. A retry fails until the
	// permissions are changed.
	ErrDenied = errors.New("access denied")
	// ErrPrivate: the store does not disclose the value, because the secret
	// is private. Errors that wrap it wrap ErrDenied as well.
	ErrPrivate = fmt.Errorf("%w: the secret is private", ErrDenied)
	// ErrLocked: the store must be unlocked first, by a passphrase or the
	// like, which could not be obtained. The error's text says how to unlock it.
	ErrLocked = errors.New("the key store is locked")
	// ErrUnreachable: the store could not be queried: the server is down or does
	// not respond, the directory does not exist. A later retry may succeed.
	ErrUnreachable = errors.New("the key store cannot be reached")
	// ErrDamaged: the stored data is corrupt or ambiguous. Other secrets may be
	// intact.
	ErrDamaged = errors.New("damaged")
	// ErrConflict: the document conflicts with one that is already defined;
	// see [CheckDefine].
	ErrConflict = errors.New("it conflicts with what is defined")
	// ErrPersistent: an ephemeral secret is refused by a store or another place whose
	// content survives a reboot.
	ErrPersistent = errors.New("the secret is ephemeral, which is kept in memory only")
)

// Store looks up secrets. A store with more abilities is a [Lister] or a [Keeper]
// as well.
//
// All methods of the three interfaces are safe for concurrent use, also by several
// processes. They return soon after ctx ends, with an error that wraps ctx.Err().
// A store that queries a server also has a time-out for each call, after which the
// error wraps ErrUnreachable, so that a server that accepts a connection and then
// is silent does not block the caller. Every error is a *StoreError, and no error
// text contains bytes of a secret. A store does not retry, and needs no closing:
// connections end with the call.
type Store interface {
	// Lookup returns the secret that ref names. Every call returns a new
	// Secret, which the caller wipes. Its bytes are exactly those that were
	// stored.
	//
	// Lookup changes nothing in the store and may be repeated.
	//
	// The error wraps ErrNotFound only if the store is certain that it does
	// not have the secret; ErrNoValue if the secret is defined without value;
	// ErrWrongType if its usage type does not match; ErrDenied if it may not
	// be read (ErrPrivate if no client may read it); ErrLocked if the store
	// must be unlocked first; ErrUnreachable if the store could not be
	// queried; ErrDamaged if the stored data is invalid; ErrInvalidReference
	// if ref is invalid.
	Lookup(ctx context.Context, ref Reference) (*Secret, error)

	// String returns the URI that opens the store, for messages, without any
	// password that the URI holds.
	String() string
}

// Lister is a [Store] that lists its secrets. If the store has a separate right to
// read values, listing does not need it.
type Lister interface {
	Store

	// List returns the document of each secret, with and without value, in no
	// particular order. It reads no value.
	//
	// If some entries cannot be read, List returns the others, and an error that
	// wraps ErrDamaged or ErrDenied and names each unreadable one. With any other
	// error (ErrDenied for the store as a whole, ErrLocked, ErrUnreachable) it
	// returns no documents.
	List(ctx context.Context) ([]Document, error)
}

// Keeper is a [Lister] that can be changed. Changes are atomic, also if this process
// or the host crashes, and durable once a method has returned nil. If the outcome is
// unknown (a time-out), the call may be repeated: each method is idempotent, except
// that Remove then returns ErrNotFound. ErrDenied, ErrLocked and ErrUnreachable are
// as for [Store.Lookup].
type Keeper interface {
	Lister

	// Define adds a secret, or replaces the document of the secret with d's uuid
	// and keeps its value. The error wraps ErrInvalidDocument if d is invalid or
	// has no uuid; ErrConflict as for [CheckDefine] (a server without locks may
	// miss the conflict of two simultaneous calls); ErrPersistent for an ephemeral
	// secret in a store that survives a reboot.
	Define(ctx context.Context, d Document) error

	// Set sets or replaces the value of the secret that ref names: a concurrent
	// Lookup finds either the old or the new value. Set neither keeps nor wipes
	// the Secret value. The error wraps ErrNotFound if the secret is not defined,
	// ErrWrongType as for Lookup, ErrPersistent as for Define. Private secrets are
	// treated like others.
	Set(ctx context.Context, ref Reference, value *Secret) error

	// Remove removes the secret that ref names, its value first. The error
	// wraps ErrNotFound if it does not exist, ErrWrongType as for Lookup.
	Remove(ctx context.Context, ref Reference) error
}

// StoreError is an error of a store, with the names of the store and the secret.
type StoreError struct {
	Store string    // Store.String of the store
	Ref   Reference // zero if the error concerns the store as a whole
	Err   error
}

// Error implements error.
func (e *StoreError) Error() string {
	if e.Ref == (Reference{}) {
		return fmt.Sprintf("key store %s: %v", e.Store, e.Err)
	}
	return fmt.Sprintf("secret with %s: key store %s: %v", e.Ref, e.Store, e.Err)
}

// Unwrap returns e.Err.
func (e *StoreError) Unwrap() error { return e.Err }

// Chain returns a store that queries the given ones in order. It continues with the
// next store only after ErrNotFound. Any other error ends the search and names its
// store: continuing after ErrDenied or ErrUnreachable could return an older value
// from a later store. Without stores, Lookup returns ErrNotFound.
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
	var failed []error
	for _, store := range c {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		secret, err := store.Lookup(ctx, ref)
		if err == nil {
			return secret, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err // already names its store
		}
		failed = append(failed, err)
	}
	return nil, MissingFrom(c, ref, failed)
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
