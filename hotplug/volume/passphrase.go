package volume

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Errors of [ChangePassphrase], [AddPassphrase] and [RemovePassphrase]. Test with errors.Is.
var (
	// ErrNoSpareSlot: the header has no room for another passphrase.
	ErrNoSpareSlot = luks.ErrNoSpareSlot
	// ErrLastPassphrase: no other passphrase is known to open the volume.
	ErrLastPassphrase = luks.ErrLastSlot
	// ErrSlotNotInUse: the key slot to be removed has no passphrase.
	ErrSlotNotInUse = luks.ErrSlotNotInUse
	// ErrShared: the secret is that of other volumes or disks as well.
	ErrShared = errors.New("the secret has other uses")
	// ErrUnfinished: a change that was begun has another new passphrase.
	ErrUnfinished = errors.New("an earlier change is not finished")
	// ErrNotStaged: a change is to be committed, and the new passphrase does not open the volume.
	ErrNotStaged = errors.New("the change is not staged: the new passphrase does not open the volume")
)

// Stored is a secret in a key store.
type Stored struct {
	Store    secrets.Keeper
	Document secrets.Document
}

// String returns the names of the secret and its store, for messages.
func (s Stored) String() string { return fmt.Sprintf("the secret with %s in %s", s.Document, s.Store) }

// companion returns a secret beside this one, which a rerun finds by its uuid, of version 5 (RFC 9562). It is as
// restricted as the secret, and has no usage, because usages are unique.
func (s Stored) companion(name, description string) Stored {
	space := s.Document.UUID
	if space == uuid.Nil {
		space = uuid.NewSHA1(uuid.NameSpaceURL, []byte(s.Document.String()))
	}
	return Stored{s.Store, secrets.Document{
		UUID:      uuid.NewSHA1(space, []byte("luksplug "+name)),
		Ephemeral: s.Document.Ephemeral, Private: s.Document.Private,
		Description: fmt.Sprintf("%s of the secret with %s, whose change is not finished", description, s.Document),
	}}
}

// staged is the secret that has the new passphrase until the change has ended, and previous the one that has the old
// passphrase from before it is replaced until its key slots are wiped.
func (s Stored) staged() Stored   { return s.companion("new passphrase", "the new passphrase") }
func (s Stored) previous() Stored { return s.companion("old passphrase", "the old passphrase") }

// value returns the value, nil if the store has none.
func (s Stored) value(ctx context.Context) (*secrets.Secret, error) {
	v, err := s.Store.Lookup(ctx, s.Document.Reference())
	if errors.Is(err, secrets.ErrNotFound) || errors.Is(err, secrets.ErrNoValue) {
		return nil, nil
	}
	return v, err
}

// keep defines the secret with that value, which it reads back.
func (s Stored) keep(ctx context.Context, value *secrets.Secret) error {
	if err := s.Store.Define(ctx, s.Document); err != nil {
		return err
	}
	return s.replace(ctx, value)
}

// replace sets the value, and reads it back.
func (s Stored) replace(ctx context.Context, value *secrets.Secret) error {
	if err := s.Store.Set(ctx, s.Document.Reference(), value); err != nil {
		return err
	}
	stored, err := s.Store.Lookup(ctx, s.Document.Reference())
	if err != nil {
		return err
	}
	defer stored.Wipe()
	if !stored.Equal(value) {
		return &secrets.StoreError{Store: s.Store.String(), Ref: s.Document.Reference(), Err: fmt.Errorf("%w: the store returns another value than it was given", secrets.ErrDamaged)}
	}
	return nil
}

// remove removes the secret, which may be gone.
func (s Stored) remove(ctx context.Context) error {
	if err := s.Store.Remove(ctx, s.Document.Reference()); err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return err
	}
	return nil
}

// unlock opens the header as it is stored now, see [unlock].
func (h *held) unlock(ctx context.Context, passphrase *secrets.Secret, slots []int) (*luks.VolumeKey, error) {
	header, err := luks.ReadHeader(h)
	if err != nil {
		return nil, err
	}
	return unlock(ctx, header, passphrase, slots)
}

// unlock opens a header with a passphrase, by one of the key slots; nil tries all.
func unlock(ctx context.Context, header *luks.Header, passphrase *secrets.Secret, slots []int) (key *luks.VolumeKey, err error) {
	if slots == nil {
		slots = header.ActiveSlots() // those of low priority as well
	}
	err = passphrase.Use(func(value []byte) error {
		key, err = luks.Unlocker{Slots: slots}.Unlock(ctx, header, value)
		return err
	})
	return key, err
}

// tryUnlock is unlock that returns nil if the passphrase opens no key slot.
func (h *held) tryUnlock(ctx context.Context, passphrase *secrets.Secret) (*luks.VolumeKey, error) {
	header, err := luks.ReadHeader(h)
	if err != nil {
		return nil, err
	}
	return tryUnlock(ctx, header, passphrase)
}

func tryUnlock(ctx context.Context, header *luks.Header, passphrase *secrets.Secret) (*luks.VolumeKey, error) {
	key, err := unlock(ctx, header, passphrase, nil)
	if errors.Is(err, luks.ErrWrongPassphrase) || errors.Is(err, luks.ErrNoKeySlot) {
		return nil, nil
	}
	return key, err
}

// spareSlot returns the number of the key slot that add would take.
func (h *held) spareSlot() (int, error) {
	header, err := luks.ReadHeader(h)
	if err != nil {
		return 0, err
	}
	return header.SpareSlot()
}

// add puts a passphrase into a spare key slot. After a failure, a [*LeftError] names a slot that is left in use.
func (h *held) add(ctx context.Context, key *luks.VolumeKey, passphrase *secrets.Secret, slow time.Duration) (*luks.VolumeKey, error) {
	header, err := luks.ReadHeader(h)
	if err != nil {
		return nil, err
	}
	cost, err := costOf(ctx, header, slow)
	if err != nil {
		return nil, err
	}
	added, err := luks.AddSlot(ctx, h, key, passphrase, cost)
	if err == nil {
		return added, nil
	}
	now, readErr := luks.ReadHeader(h)
	if readErr != nil {
		return nil, &LeftError{errors.Join(err, readErr), []string{"possibly a new key slot of " + h.file()}}
	}
	for _, slot := range now.ActiveSlots() {
		if !slices.Contains(header.ActiveSlots(), slot) {
			return nil, &LeftError{err, []string{fmt.Sprintf("key slot %d of %s", slot, h.file())}}
		}
	}
	return nil, err
}

// costOf returns a derivation that takes slow on this host; 0 is for a random passphrase.
func costOf(ctx context.Context, header *luks.Header, slow time.Duration) (luks.KDF, error) {
	format, err := header.Format()
	if err != nil {
		return luks.KDF{}, err
	}
	if slow == 0 {
		return format.MinimumCost(), nil
	}
	return format.Cost(ctx, slow, argon2Limit)
}

// wipeAll wipes the key slots that a passphrase opens, but not that of the key, which proves that another one opens the
// volume. It returns their numbers, also with an error.
func (h *held) wipeAll(ctx context.Context, proof *luks.VolumeKey, passphrase *secrets.Secret) (wiped []int, err error) {
	for {
		key, err := h.tryUnlock(ctx, passphrase)
		if err != nil || key == nil {
			return wiped, err
		}
		slot := key.Slot()
		key.Wipe()
		if err := luks.WipeSlot(ctx, h, proof, slot); err != nil {
			return wiped, err
		}
		wiped = append(wiped, slot)
	}
}

// looksRandom reports whether a passphrase has the form of [randomPassphrase]: 256 random bits, whether made here or by
// another program.
func looksRandom(passphrase *secrets.Secret) bool {
	return passphrase.Use(func(value []byte) error {
		random := make([]byte, base64.StdEncoding.DecodedLen(len(value)))
		defer clear(random)
		n, err := base64.StdEncoding.Strict().Decode(random, value)
		if err == nil && n != passphraseBytes {
			err = ErrRequest
		}
		return err
	}) == nil
}
