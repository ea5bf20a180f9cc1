package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Addition is a further passphrase for a volume.
type Addition struct {
	Location
	// Known is a passphrase that opens the volume.
	Known *secrets.Secret
	// New is a passphrase that a person has chosen, so that it is worth a slow derivation; nil makes a random one.
	New *secrets.Secret
	// Secret is the document of the new passphrase's secret. Its zero UUID is a random one.
	Secret secrets.Document
	// Unlock is how long deriving the key from New is to take on this host; 0 is two seconds.
	Unlock time.Duration
	// DryRun changes nothing, and does all checks that are possible without.
	DryRun bool
}

// Added is the result of [AddPassphrase].
type Added struct {
	// Slot is the key slot that the passphrase opens. Already is true if it did so before.
	Slot    int
	Already bool
	// Stored is the secret with the passphrase; nil if AddPassphrase was called without Keys, and with Already.
	Stored *Stored
}

// AddPassphrase gives a volume a further passphrase, in a spare key slot, after the passphrase is in the key store. The volume
// may be attached. keys defines the passphrase's secret; it is nil for a passphrase that is kept elsewhere, which is
// Addition.New.
//
// The errors wrap [ErrRequest], [ErrWrongPassphrase], [ErrNoSpareSlot], [ErrBusy], [ErrNoVolume], luks.ErrUnsupported,
// those of luks.ReadHeader, of keys, of the store, and of the file system. Nothing was changed then, unless it is a
// [*LeftError]. A crash leaves at most a secret that opens nothing.
func AddPassphrase(ctx context.Context, a Addition, keys Keys) (*Added, error) {
	out, err := a.run(ctx, keys, hold)
	if err != nil {
		return nil, fmt.Errorf("add a passphrase to %s: %w", a.file(), err)
	}
	return out, nil
}

func (a Addition) run(ctx context.Context, keys Keys, open opener) (*Added, error) {
	switch {
	case a.New == nil && keys == nil:
		return nil, fmt.Errorf("%w: there is neither a passphrase nor a key store for a new one", ErrRequest)
	case a.New != nil && a.New.Len() == 0:
		return nil, fmt.Errorf("%w: the new passphrase is empty", ErrRequest)
	}
	h, err := open(ctx, a.Location)
	if err != nil {
		return nil, err
	}
	defer h.close()
	key, err := h.unlock(ctx, a.Known, nil)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	slow, passphrase := cmp.Or(a.Unlock, defaultUnlock), a.New
	if passphrase == nil {
		passphrase, slow = randomPassphrase(), 0
		defer passphrase.Wipe()
	} else if there, err := h.tryUnlock(ctx, passphrase); err != nil || there != nil {
		defer there.Wipe()
		if err != nil {
			return nil, err
		}
		return &Added{Slot: there.Slot(), Already: true}, nil
	}
	if !a.DryRun {
		if _, err := luks.FinishWipes(h); err != nil {
			return nil, err
		}
	}
	slot, err := h.spareSlot()
	if err != nil || a.DryRun {
		return &Added{Slot: slot}, err
	}
	return a.add(ctx, keys, h, key, passphrase, slow)
}

// add puts the passphrase into the store and then into a key slot.
func (a Addition) add(ctx context.Context, keys Keys, h *held, key *luks.VolumeKey, passphrase *secrets.Secret, slow time.Duration) (*Added, error) {
	out := &Added{}
	if keys != nil {
		if a.Secret.UUID == uuid.Nil {
			a.Secret.UUID = uuid.New()
		}
		keeper, err := keys(ctx, a.Secret)
		if err != nil {
			return nil, err
		}
		out.Stored = &Stored{keeper, a.Secret}
		if err := out.Stored.replace(ctx, passphrase); err != nil {
			return nil, out.Stored.undo(ctx, err)
		}
	}
	added, err := h.add(ctx, key, passphrase, slow)
	var left *LeftError
	switch {
	case errors.As(err, &left), err != nil && out.Stored == nil:
		return nil, err // a slot that is left needs its passphrase
	case err != nil:
		return nil, out.Stored.undo(ctx, err)
	}
	defer added.Wipe()
	out.Slot = added.Slot()
	return out, nil
}

// undo removes the secret after err.
func (s Stored) undo(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	if removed := s.remove(ctx); removed != nil {
		return &LeftError{err, []string{fmt.Sprintf("%s (%v)", s, removed)}}
	}
	return err
}
