package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/hotplug/volume"
)

// errNotOpened reports that no secret opens a volume.
var errNotOpened = errors.New("no secret opens the volume")

// trial is a secret that was tried on a volume.
type trial struct {
	secret, store string // secret is "" for the passphrase of --passphrase-file
	slot          int    // that it opens, without err
	err           error
}

func (t trial) text() string {
	name := "of " + t.store
	if t.secret != "" {
		name = t.secret + " in " + t.store
	}
	if t.err != nil {
		return fmt.Sprintf("%s: does not open the volume: %v", name, t.err)
	}
	return fmt.Sprintf("%s: opens key slot %d", name, t.slot)
}

// trialJSON is a trial in JSON.
type trialJSON struct {
	Secret string `json:"secret,omitempty"`
	Store  string `json:"store"`
	Slot   *int   `json:"slot,omitempty"` // missing if it opens none
	Error  string `json:"error,omitempty"`
}

func (t trial) json() trialJSON {
	out := trialJSON{Secret: t.secret, Store: t.store, Error: errorText(t.err)}
	if t.err == nil {
		out.Slot = &t.slot
	}
	return out
}

// trySecrets tries the passphrase of --passphrase-file, if it is given, and the secrets on a volume.
func trySecrets(ctx context.Context, a *app, i *volume.Info, claims []volume.Claim) []trial {
	trials := []trial{}
	if a.flags.passphrase != "" {
		given := volume.Claim{Store: &given{app: a}}
		slot, err := trySecret(ctx, i, given)
		trials = append(trials, trial{"", given.Store.String(), slot, err})
	}
	for _, s := range claims {
		slot, err := trySecret(ctx, i, s)
		trials = append(trials, trial{secretName(s.Document), s.Store.String(), slot, err})
	}
	return trials
}

func trySecret(ctx context.Context, i *volume.Info, s volume.Claim) (slot int, err error) {
	value, err := s.Store.Lookup(ctx, s.Document.Reference())
	if err != nil {
		return 0, err
	}
	defer value.Wipe()
	return volume.TrySlot(ctx, i.Path, i.Header, value)
}

// checked returns nil if one of the trials has opened the volume. problem is why secrets of some stores were not tried, nil
// if all were.
func (v shownVolume) checked(problem error) error {
	for _, t := range v.trials {
		if t.err == nil {
			return nil
		}
	}
	err := fmt.Errorf("%s: %w: %d were tried", v.Path, errNotOpened, len(v.trials))
	switch {
	case problem != nil:
		return fmt.Errorf("%w, and there may be others: %w", err, problem)
	case len(v.trials) == 0:
		return fmt.Errorf("%s: %w: no key store has one that names it: give --passphrase-file, or define a secret whose usage is its path", v.Path, errNotOpened)
	}
	return err
}
