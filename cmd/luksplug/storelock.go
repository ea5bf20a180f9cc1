package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// The states of a key store.
const (
	storeOpen     = "open"     // no passphrase protects it
	storeLocked   = "locked"   // a passphrase protects it
	storeUnlocked = "unlocked" // the kernel keeps its key
	storeOther    = "other"    // it is of a kind that luksplug does not unlock
	storeUnknown  = "unknown"
)

// storeJSON is the state of a key store in JSON output. Members are only added.
type storeJSON struct {
	Store        string     `json:"store"`
	State        string     `json:"state"`
	Until        *time.Time `json:"until,omitempty"`
	UntilSuspend bool       `json:"until_suspend,omitempty"`
	Reason       string     `json:"reason,omitempty"` // why a store that was unlocked is locked, or the state unknown
}

// stateJSON returns the state of a store for JSON output.
func stateJSON(store secrets.Store, state secrets.LockState) storeJSON {
	j := storeJSON{Store: store.String(), State: storeOpen}
	switch {
	case state.Unlocked:
		j.State, j.UntilSuspend = storeUnlocked, state.Suspend
		if !state.Until.IsZero() {
			j.Until = &state.Until
		}
	case state.Protected:
		j.State, j.Reason = storeLocked, state.Ended
	}
	return j
}

// stateOf returns the state of a store. It asks for nothing.
func stateOf(ctx context.Context, store secrets.Store) (storeJSON, error) {
	u, ok := secrets.UnlockerOf(store)
	if !ok {
		return storeJSON{Store: store.String(), State: storeOther}, nil
	}
	state, err := u.LockState(ctx)
	if err != nil {
		return storeJSON{Store: store.String(), State: storeUnknown, Reason: oneLine(err.Error())}, err
	}
	return stateJSON(store, state), nil
}

// until says until when an unlocked store is unlocked.
func (s storeJSON) until() string {
	end := "the host reboots"
	if s.Until != nil {
		end = s.Until.Local().Format(time.DateTime)
	}
	if s.UntilSuspend {
		end += " or is suspended"
	}
	return "until " + end
}

// String returns the state for people.
func (s storeJSON) String() string {
	switch {
	case s.State == storeOpen:
		return s.Store + " is always open: no passphrase protects it"
	case s.State == storeUnlocked:
		return s.Store + " unlocked " + s.until()
	case s.Reason != "":
		return s.Store + " " + s.State + ": " + s.Reason
	}
	return s.Store + " " + s.State
}

// showStores prints states, or, without any, the text none.
func showStores(a *app, all []storeJSON, none string) error {
	if all == nil {
		all = []storeJSON{} // and not null
	}
	var text strings.Builder
	for _, s := range all {
		_, _ = fmt.Fprintln(&text, printable.Line(s.String())) // into memory
	}
	if len(all) == 0 {
		text.WriteString(none)
	}
	return a.show(text.String(), struct {
		Stores []storeJSON `json:"stores"`
	}{all})
}

// namedStores returns the key store that an argument names, by its name in the output of
// luksplug or by a URI; all key stores for "".
func namedStores(a *app, name string, options keystore.Options) ([]secrets.Store, error) {
	if name == "" {
		return openStores(a, options)
	}
	names, err := a.storeNames()
	if err != nil {
		return nil, err
	}
	for _, uri := range append(names.uris, name) {
		s, err := keystore.Open(uri, options)
		switch {
		case err != nil && uri == name:
			return nil, fmt.Errorf("STORE: %w", err)
		case err == nil && (uri == name || s.String() == name):
			return []secrets.Store{s}, nil
		}
	}
	return nil, nil // not reached: the last URI is the name
}

// errNoUnlocker reports that a store, or no store, can be unlocked.
var errNoUnlocker = errors.New("luksplug unlocks key stores of the kinds age: and pkcs11: only: unlock others by their own programs")

// unlockers returns those of the stores that can be unlocked. If name names one that cannot,
// or none can, it returns an error.
func unlockers(a *app, name string, options keystore.Options) ([]secrets.Unlocker, error) {
	stores, err := namedStores(a, name, options)
	if err != nil {
		return nil, err
	}
	var out []secrets.Unlocker
	for _, s := range stores {
		if u, ok := secrets.UnlockerOf(s); ok {
			out = append(out, u)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case name != "":
		return nil, &usageError{fmt.Errorf("%s: %w", name, errNoUnlocker)}
	case len(stores) == 0:
		return nil, &usageError{errors.New("no key store exists: define a secret first, or name a store")}
	}
	return nil, &usageError{errNoUnlocker}
}
