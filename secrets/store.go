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
	// ErrNoValue: the secret is defined and has no value yet. The search ends
	// here: the secret's place is this store.
	ErrNoValue = errors.New("the secret has no value yet")
	// ErrWrongType: the secret is for something else than what the reference
	// wants it for.
	ErrWrongType = errors.New("the secret is of another type")
	// ErrDenied: the secret may well be there, but this caller may not have
	// it, or the store is not safe to take it from. A retry is useless until
	// permissions have changed.
	ErrDenied = errors.New("access denied")
	// ErrPrivate: the store does not disclose the secret's value, because it
	// is marked private. Errors that wrap it wrap ErrDenied as well.
	ErrPrivate = fmt.Errorf("%w: the secret is private", ErrDenied)
	// ErrLocked: the store must be opened first, by a passphrase or the like,
	// and there was no way to ask for it. The error's text says how to.
	ErrLocked = errors.New("the key store is locked")
	// ErrUnreachable: the store could not be queried: the server is gone or does
	// not answer, the directory does not exist. A later retry may help.
	ErrUnreachable = errors.New("the key store cannot be reached")
	// ErrDamaged: what the store holds is not what it wrote. Other secrets may
	// be fine.
	ErrDamaged = errors.New("damaged")
	// ErrConflict: a secret cannot be defined so, because of what is defined
	// already; see [CheckDefine].
	ErrConflict = errors.New("it conflicts with what is defined")
	// ErrPersistent: an ephemeral secret cannot be in this store, which keeps
	// what it has beyond a reboot.
	ErrPersistent = errors.New("the key store is persistent, and the secret is ephemeral")
)

// Store is a place where secrets are kept. It can look secrets up; those that
// can do more are a [Lister] or a [Keeper] as well.
//
// What holds for every method of the three: it may be called from several
// goroutines and processes at once. It returns soon after ctx ends, with an error
// that wraps ctx.Err(); a store that asks a server also has a time-out of its
// own for each call, after which the answer is ErrUnreachable, so that a server
// that accepts a connection and then is silent does not block the caller. Every
// error is a *StoreError, and no error text holds bytes of a secret. A store does
// not retry, and nothing needs closing: connections end with the call.
type Store interface {
	// Lookup returns the secret that ref names. The Secret is the caller's
	// own: every call makes a new one, and the caller wipes it. Its bytes
	// are exactly those that were stored.
	//
	// Lookup changes nothing in the store and may be repeated.
	//
	// The error wraps ErrNotFound only where the store is sure that it does
	// not have the secret; ErrNoValue where it is defined only; ErrWrongType
	// where it is for something else; ErrDenied where it may not be read
	// (ErrPrivate if no client may); ErrLocked where the store has to be opened
	// first; ErrUnreachable where it could not be asked; ErrDamaged where what
	// is there makes no sense; ErrInvalidReference for a ref that does not
	// validate.
	Lookup(ctx context.Context, ref Reference) (*Secret, error)

	// String returns the URI that opens the store, for messages, without any
	// password that the URI holds.
	String() string
}

// Lister is a [Store] that lists its secrets. Listing needs no right to read
// values, where the store makes that difference.
type Lister interface {
	Store

	// List returns what is known of each secret, with and without value, in
	// no particular order. It reads no value.
	//
	// Entries that cannot be read do not hide the others: List then returns
	// those it could read, and an error that wraps ErrDamaged or ErrDenied and
	// names each that it could not. With any other error (ErrDenied for the
	// store as a whole, ErrLocked, ErrUnreachable) there are no documents.
	List(ctx context.Context) ([]Document, error)
}

// Keeper is a [Lister] that can be changed. A change is there completely or not
// at all, also if this process or the host dies on the way, and when a method
// has returned nil it stays. Where the outcome is not known (a time-out), doing
// it again is safe: each method is idempotent but for Remove's ErrNotFound.
// ErrDenied, ErrLocked and ErrUnreachable are as for [Store.Lookup].
type Keeper interface {
	Lister

	// Define adds a secret, or replaces the document of the one with d's uuid,
	// whose value stays. The error wraps ErrInvalidDocument for a d that does
	// not validate or has no uuid; ErrConflict as [CheckDefine] says (a server
	// that has no locks may miss the conflict of two at the same moment);
	// ErrPersistent for an ephemeral secret in a store that outlives a reboot.
	Define(ctx context.Context, d Document) error

	// Set gives the secret that ref names the value, in the place of the one
	// that it may have: a Lookup at any time finds the one or the other. Set
	// neither keeps nor wipes the Secret that it is given. The error wraps
	// ErrNotFound for a secret that is not defined, ErrWrongType as for Lookup.
	// It does not make a difference whether the secret is private.
	Set(ctx context.Context, ref Reference, value *Secret) error

	// Remove removes the secret that ref names, its value first. The error
	// wraps ErrNotFound where there is none, ErrWrongType as for Lookup.
	Remove(ctx context.Context, ref Reference) error
}

// StoreError says which store failed at which secret.
type StoreError struct {
	Store string    // Store.String of the store
	Ref   Reference // the zero Reference for the store as a whole
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
