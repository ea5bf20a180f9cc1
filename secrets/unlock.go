package secrets

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of an [Unlocker].
var (
	// ErrPassphrase: the store's key is protected by a passphrase, which could not be
	// obtained, and the store is not unlocked. Errors that wrap it wrap ErrLocked as well.
	ErrPassphrase = fmt.Errorf("%w: its key is protected by a passphrase", ErrLocked)
	// ErrWrongPassphrase: the passphrase of the store is wrong. Errors that wrap it wrap
	// ErrDenied as well.
	ErrWrongPassphrase = fmt.Errorf("%w: the passphrase is wrong", ErrDenied)
	// ErrNoKeyring: the kernel keeps no keys for this process, so that nothing can be
	// unlocked for other processes. A container often forbids it.
	ErrNoKeyring = errors.New("the kernel keeps no keys for this process (add_key and keyctl)")
)

// Unlocker is a [Store] whose key can be protected by a passphrase. It can be unlocked
// once for all processes of the user on this host, as a file is that is opened at boot:
// the kernel keeps the key (keyrings(7)), until Lock, the limit, or a reboot. Look-ups use
// that key and ask for nothing.
//
// The methods are as those of [Store]: safe for concurrent use, also by several
// processes; the last of simultaneous calls counts. A look-up that has begun when the
// store is locked may finish.
type Unlocker interface {
	Store

	// Unlock asks for the passphrase, checks it, and keeps the key until the limit. It
	// replaces a key that is kept already. If no passphrase protects the store, it keeps
	// nothing, and the returned state says so. The error wraps ErrWrongPassphrase;
	// ErrPassphrase if there is none; ErrNoKeyring, before the passphrase is asked for.
	// A failed call changes nothing.
	Unlock(ctx context.Context, limit Limit) (LockState, error)

	// Lock wipes the kept key, and reports whether there was one.
	Lock(ctx context.Context) (bool, error)

	// LockState returns whether the store is unlocked. It asks for nothing.
	LockState(ctx context.Context) (LockState, error)
}

// Limit is the time for which a store is unlocked. The zero value is until the next
// reboot.
type Limit struct {
	// For is the time after which the key is not used, and within two seconds destroyed
	// by the kernel; 0 for none. It also counts while the host is suspended.
	For time.Duration
	// Suspend ends with the next suspend or hibernation of the host.
	Suspend bool
}

// LockState is the state of an [Unlocker].
type LockState struct {
	// Protected reports whether the key is protected by a passphrase. If not, the store
	// is always open, and the other fields are zero.
	Protected bool
	// Unlocked reports whether the key is kept, and look-ups need no passphrase.
	Unlocked bool
	// Until is the time at which an unlocked store is locked; zero for none.
	Until time.Time
	// Suspend: a suspend of the host locks the store.
	Suspend bool
	// Ended says why a key that is still kept is not used; "" for none.
	Ended string
}

// UnlockerOf returns the Unlocker that a store is, or that it wraps.
func UnlockerOf(store Store) (Unlocker, bool) {
	for {
		switch s := store.(type) {
		case Unlocker:
			return s, true
		case interface{ Unwrap() Store }:
			store = s.Unwrap()
		default:
			return nil, false
		}
	}
}
