package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Removal removes a passphrase from a volume. Exactly one of Stored, Passphrase and Slot says which.
type Removal struct {
	Location
	// Known is another passphrase that opens the volume, and stays.
	Known *secrets.Secret
	// Stored is a secret, which is removed from its store with the passphrase.
	Stored *Stored
	// Passphrase is the passphrase to be removed.
	Passphrase *secrets.Secret
	// Slot is a key slot whose passphrase may be unknown.
	Slot *int
	// Uses are what uses the secret, as far as the caller knows: there must be none but the volume's own document.
	Uses []hotplug.Use
	// DryRun changes nothing, and does all checks that are possible without.
	DryRun bool
}

// Removed is the result of [RemovePassphrase].
type Removed struct {
	// Slots are the key slots that were wiped, or with [Removal.DryRun] would be, and Kept is the one that Known opens.
	Slots []int
	Kept  int
	// Secret is true if the secret was removed from its store.
	Secret bool
}

// RemovePassphrase wipes the key slots that a passphrase opens, after another passphrase has opened the volume by another
// slot. The volume may be attached. What a backup of the header, a snapshot or an SSD holds of the slots is not wiped.
//
// A secret is removed from its store last. Before, its description says of which volume it is being removed: a run after
// a crash in between finds that it opens nothing, and removes it.
//
// The errors wrap [ErrRequest], [ErrWrongPassphrase], [ErrLastPassphrase], [ErrSlotNotInUse], [ErrShared], [ErrBusy],
// [ErrNoVolume], luks.ErrUnsupported, those of luks.ReadHeader, of the store, and of the file system. Nothing was changed
// then, unless it is a [*LeftError].
func RemovePassphrase(ctx context.Context, r Removal) (*Removed, error) {
	out, err := r.run(ctx, hold)
	if err != nil {
		return nil, fmt.Errorf("remove a passphrase of %s: %w", r.file(), err)
	}
	return out, nil
}

func (r Removal) run(ctx context.Context, open opener) (*Removed, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	h, err := open(ctx, r.Location)
	if err != nil {
		return nil, err
	}
	defer h.close()
	if r.Stored != nil {
		if r.Passphrase, err = r.Stored.Store.Lookup(ctx, r.Stored.Document.Reference()); err != nil {
			return nil, err
		}
		defer r.Passphrase.Wipe()
	}
	if r.Passphrase != nil && r.Passphrase.Equal(r.Known) {
		return nil, fmt.Errorf("%w: the passphrase to be removed is also the one that is to stay", ErrLastPassphrase)
	}
	key, slots, err := r.choose(ctx, h)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	out := &Removed{Slots: slots, Kept: key.Slot()}
	if r.DryRun {
		return out, nil
	}
	if _, err := luks.FinishWipes(h); err != nil {
		return nil, err
	}
	return r.wipe(context.WithoutCancel(ctx), h, key, out)
}

func (r Removal) check() error {
	ways := 0
	for _, given := range []bool{r.Stored != nil, r.Passphrase != nil, r.Slot != nil} {
		if given {
			ways++
		}
	}
	switch {
	case r.Known == nil:
		return fmt.Errorf("%w: a passphrase that stays is needed", ErrRequest)
	case ways != 1:
		return fmt.Errorf("%w: the passphrase to be removed is named by a secret, by itself, or by its key slot", ErrRequest)
	}
	for _, u := range r.Uses {
		if u.VM != "" || !r.same(Location{u.Payload, u.Header}) {
			return fmt.Errorf("%w: %s", ErrShared, useName(u))
		}
	}
	return nil
}

// choose opens the volume by the known passphrase, and returns the key slots that are to be wiped. There are none if a
// secret was removed in part.
func (r Removal) choose(ctx context.Context, h *held) (*luks.VolumeKey, []int, error) {
	var tried []int
	if r.Slot != nil { // another one has to open
		header, err := luks.ReadHeader(h)
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(header.ActiveSlots(), *r.Slot) {
			return nil, nil, fmt.Errorf("key slot %d: %w", *r.Slot, ErrSlotNotInUse)
		}
		tried = slices.DeleteFunc(header.ActiveSlots(), func(n int) bool { return n == *r.Slot })
		if len(tried) == 0 {
			return nil, nil, fmt.Errorf("key slot %d: %w", *r.Slot, ErrLastPassphrase)
		}
	}
	key, err := h.unlock(ctx, r.Known, tried)
	switch {
	case err != nil && r.Slot != nil && errors.Is(err, ErrWrongPassphrase):
		return nil, nil, fmt.Errorf("key slot %d: %w: %w", *r.Slot, ErrLastPassphrase, err)
	case err != nil:
		return nil, nil, err
	case r.Slot != nil:
		return key, []int{*r.Slot}, nil
	}
	removed, err := h.unlock(ctx, r.Passphrase, nil)
	switch {
	case err == nil:
		defer removed.Wipe()
		return key, []int{removed.Slot()}, nil
	case errors.Is(err, ErrWrongPassphrase) && r.begun(key):
		return key, nil, nil
	}
	key.Wipe()
	return nil, nil, fmt.Errorf("the passphrase to be removed: %w", err)
}

// removalMark is the description of a secret whose passphrase is being removed.
func removalMark(key *luks.VolumeKey) string {
	return "being removed from the volume with UUID " + key.VolumeUUID()
}

// begun reports whether an earlier run has begun to remove the secret.
func (r Removal) begun(key *luks.VolumeKey) bool {
	return r.Stored != nil && r.Stored.Document.Description == removalMark(key)
}

// wipe wipes the key slots, and then removes the secret.
func (r Removal) wipe(ctx context.Context, h *held, key *luks.VolumeKey, out *Removed) (*Removed, error) {
	if r.Stored != nil {
		marked := r.Stored.Document
		marked.Description = removalMark(key)
		if err := r.Stored.Store.Define(ctx, marked); err != nil {
			return nil, err
		}
	}
	var err error
	if r.Slot != nil {
		err = luks.WipeSlot(ctx, h, key, *r.Slot)
	} else {
		out.Slots, err = h.wipeAll(ctx, key, r.Passphrase)
	}
	if err != nil {
		return nil, &LeftError{err, []string{"possibly the passphrase: the same removal, run again, finishes"}}
	}
	if r.Stored == nil {
		return out, nil
	}
	if err := r.Stored.remove(ctx); err != nil {
		return nil, &LeftError{err, []string{r.Stored.String() + ", which opens nothing any more: the same removal, run again, finishes"}}
	}
	out.Secret = true
	return out, nil
}
