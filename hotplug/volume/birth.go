package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// BirthSource is where the birth of a data key is recorded.
type BirthSource string

// The sources.
const (
	BirthInStore  BirthSource = "keystore" // the document of a secret
	BirthInHeader BirthSource = "header"   // a token of the LUKS2 header: a claim of its writer
)

// Birth is when the data key of a volume was made. A change of a passphrase does not change it.
type Birth struct {
	Time time.Time // in UTC; zero if it is unknown
	From BirthSource
}

// Known reports whether the birth is known.
func (b Birth) Known() bool { return !b.Time.IsZero() }

// Age returns how old the key is, 0 if that is unknown.
func (b Birth) Age(now time.Time) time.Duration {
	if !b.Known() {
		return 0
	}
	return now.Sub(b.Time)
}

// BirthOf returns when the data key of a volume was made: as the first of the documents records it for the UUID of the
// header, else as the header claims. A birth after now does not count.
func BirthOf(h *luks.Header, documents []secrets.Document, now time.Time) Birth {
	for _, d := range documents {
		if born, ok := d.KeyBirth(h.UUID); ok && !born.After(now) {
			return Birth{born, BirthInStore}
		}
	}
	if born, ok := h.Birth(); ok && !born.After(now) {
		return Birth{born, BirthInHeader}
	}
	return Birth{}
}

// errNoKeeper is why the birth of a data key is not recorded in a store.
var errNoKeeper = errors.New("its key store can only be read")

// keep stores a new passphrase, and records the birth of the data key. unrecorded is why that was not possible for a
// secret that exists.
func (c *creation) keep(ctx context.Context, keys Keys, passphrase *secrets.Secret) (unrecorded, err error) {
	recorded := c.Secret.WithKeyBirth(c.LUKS.UUID, c.born)
	switch {
	case keys != nil:
		c.Secret = recorded
		return nil, c.store(ctx, keys, passphrase)
	case c.Existing == nil:
		return errNoKeeper, nil
	}
	c.recording = true // undo removes the record from now on
	unrecorded = redefine(ctx, c.Existing, c.Secret.Reference(), func(d secrets.Document) secrets.Document {
		return d.WithKeyBirth(c.LUKS.UUID, c.born)
	})
	if unrecorded == nil {
		c.Secret = recorded
	}
	return unrecorded, nil
}

// unrecord removes the record of the volume from the document of a secret that exists, and returns what is left.
func (c *creation) unrecord(ctx context.Context) []string {
	err := redefine(ctx, c.Existing, c.Secret.Reference(), func(d secrets.Document) secrets.Document { return d.WithoutKeyBirth(c.LUKS.UUID) })
	if err == nil || errors.Is(err, secrets.ErrNotFound) {
		return nil
	}
	return []string{fmt.Sprintf("a line about LUKS %s in the description of the secret %s in %s (%v)", c.LUKS.UUID, c.Secret.UUID, c.Existing, err)}
}

// redefine changes the document of a secret, as it is now, and keeps the value. A change by another process at the same
// moment may be lost.
func redefine(ctx context.Context, keeper secrets.Keeper, ref secrets.Reference, change func(secrets.Document) secrets.Document) error {
	documents, listErr := keeper.List(ctx)
	d, err := secrets.Find(documents, ref)
	switch {
	case err != nil && listErr != nil:
		return listErr
	case err != nil:
		return &secrets.StoreError{Store: keeper.String(), Ref: ref, Err: err}
	}
	if changed := change(d); changed != d {
		return keeper.Define(ctx, changed)
	}
	return nil
}
