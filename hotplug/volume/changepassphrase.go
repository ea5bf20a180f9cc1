package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Phase is a part of a change of passphrases, for a passphrase that another program puts into its store in between.
type Phase string

// The phases.
const (
	// PhaseAll: the whole change.
	PhaseAll Phase = ""
	// PhaseStage: the new passphrase is added to each volume, and the old one stays.
	PhaseStage Phase = "stage"
	// PhaseCommit: the new passphrase opens each volume, and the old one is removed.
	PhaseCommit Phase = "commit"
)

// Change is a new passphrase for the volumes that have the same one.
type Change struct {
	Volumes []Location
	// Stored is the secret with the passphrase, whose value is replaced. Without it, Old is the passphrase, and New is
	// needed.
	Stored *Stored
	Old    *secrets.Secret
	// New is a passphrase that a person has chosen, so that it is worth a slow derivation; nil makes a random one.
	New *secrets.Secret
	// Unlock is how long deriving the key from a passphrase that is not random is to take on this host; 0 is two seconds.
	Unlock time.Duration
	// Uses are what uses the secret, as far as the caller knows. Each has to be among Volumes.
	Uses  []hotplug.Use
	Phase Phase
	// DryRun changes nothing, and does all checks that are possible without.
	DryRun bool
}

// Changed is the result of [ChangePassphrase].
type Changed struct {
	Volumes []VolumeChanged
	// Resumed is true if an earlier run had begun the change.
	Resumed bool
	// Replaced is true if the value of the secret was replaced.
	Replaced bool
}

// VolumeChanged is what was done to a volume, or with [Change.DryRun] would be.
type VolumeChanged struct {
	Location
	// Slot is the key slot that the new passphrase opens; Added is true if it is new.
	Slot  int
	Added bool
	// Wiped are the key slots of the old passphrase that were wiped.
	Wiped []int
}

// ChangePassphrase gives volumes a new passphrase. They may be attached: a QEMU that has one open does not read the header
// again. No other program may change the headers meanwhile, which are locked as cryptsetup does.
//
// At every moment at least one of the old and the new passphrase opens each volume and is in the store, also after a crash:
// the new one is put into the store beside the old one, as a secret of its own; then into a spare key slot of every volume,
// where it is read back; then it replaces the value of the secret, whose uuid stays, so that disks that name it stay valid;
// then the key slots of the old one are wiped, and the secret beside is removed. Called again after a failure or a crash,
// it finishes what was begun.
//
// The errors wrap [ErrRequest], [ErrWrongPassphrase], [ErrNoSpareSlot], [ErrShared], [ErrUnfinished], [ErrNotStaged],
// [ErrBusy], [ErrNoVolume], luks.ErrUnsupported, those of luks.ReadHeader, of the store, and of the file system, and name the
// volume. Nothing was changed then, unless it is a [*LeftError], which names what is not finished.
func ChangePassphrase(ctx context.Context, c Change) (*Changed, error) {
	out, err := c.run(ctx, hold)
	if err != nil {
		return out, fmt.Errorf("change the passphrase: %w", err)
	}
	return out, nil
}

// opener opens and locks a header, as [hold] does.
type opener func(context.Context, Location) (*held, error)

// run changes the passphrase of headers that open opens.
func (c Change) run(ctx context.Context, open opener) (*Changed, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &changing{Change: c}
	defer r.release()
	for _, l := range c.Volumes {
		h, err := open(ctx, l)
		if err != nil {
			return nil, err
		}
		r.volumes = append(r.volumes, &changingVolume{held: h})
	}
	if err := r.passphrases(ctx); err != nil {
		return nil, err
	}
	if err := r.examine(ctx); err != nil {
		return nil, err
	}
	if c.DryRun {
		return r.result(), nil
	}
	err := r.change(ctx)
	return r.result(), err
}

// check checks the request, without its volumes.
func (c Change) check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRequest, fmt.Sprintf(format, args...))
	}
	switch {
	case len(c.Volumes) == 0:
		return refuse("no volume is named")
	case c.Stored == nil && (c.Old == nil || c.New == nil):
		return refuse("without a secret in a key store, both the old and the new passphrase are needed")
	case c.Stored != nil && c.Old != nil:
		return refuse("both a secret and an old passphrase are given")
	case c.Stored != nil && c.Stored.Document.UsageType != secrets.UsageNone && c.Stored.Document.UsageType != secrets.UsageVolume:
		return refuse("the secret with %s is no passphrase of a volume", c.Stored.Document)
	case c.New != nil && c.New.Len() == 0:
		return refuse("the new passphrase is empty")
	case c.Phase != PhaseAll && c.Phase != PhaseStage && c.Phase != PhaseCommit:
		return refuse("the phase %q: %s and %s are possible", string(c.Phase), PhaseStage, PhaseCommit)
	}
	for i, l := range c.Volumes {
		if slices.ContainsFunc(c.Volumes[:i], l.same) {
			return refuse("%s is named twice", l.file())
		}
	}
	for _, u := range c.Uses {
		if !slices.ContainsFunc(c.Volumes, func(l Location) bool {
			return l.same(Location{u.Payload, u.Header}) || image.SameFile(l.Path, u.Payload)
		}) {
			return fmt.Errorf("%w: %s, whose passphrase would not be changed with it", ErrShared, useName(u))
		}
	}
	return nil
}

// useName names a use of a secret.
func useName(u hotplug.Use) string {
	switch {
	case u.VM == "":
		return fmt.Sprintf("the volume %s (%s)", u.Payload, u.In)
	case u.In == "":
		return fmt.Sprintf("disk %s of VM %s (%s)", u.Target, u.VM, u.Payload)
	}
	return fmt.Sprintf("%s of %s, in %s (%s)", u.Target, u.VM, u.In, u.Payload)
}

// changing is one run of ChangePassphrase.
type changing struct {
	Change
	volumes           []*changingVolume
	old, fresh        *secrets.Secret // fresh is the new one
	owned             []*secrets.Secret
	slow              time.Duration // of the derivation from fresh; 0 if it is random
	inStore, replaced bool          // the store has fresh beside the secret, or as its value
	resumed           bool          // an earlier run had begun
	changed           bool          // this run has replaced the value
}

// changingVolume is a volume in a change.
type changingVolume struct {
	*held
	key   *luks.VolumeKey // opened by the old passphrase; nil if it opens nothing
	fresh *luks.VolumeKey // opened by the new passphrase; nil as long as it opens nothing
	added bool
	wiped []int
}

// release wipes and closes everything.
func (r *changing) release() {
	for _, v := range r.volumes {
		v.key.Wipe()
		v.fresh.Wipe()
		v.close()
	}
	for _, s := range r.owned {
		s.Wipe()
	}
}

// own returns the secret, which is wiped in the end.
func (r *changing) own(s *secrets.Secret) *secrets.Secret {
	r.owned = append(r.owned, s)
	return s
}

// passphrases finds the old and the new passphrase, and how far an earlier run has come.
func (r *changing) passphrases(ctx context.Context) error {
	r.old, r.fresh, r.slow = r.Old, r.New, cmp.Or(r.Unlock, defaultUnlock)
	if r.Stored == nil {
		return nil
	}
	present, err := r.Stored.Store.Lookup(ctx, r.Stored.Document.Reference())
	if err != nil {
		return err
	}
	r.old = r.own(present)
	staged, err := r.Stored.staged().value(ctx)
	if err != nil {
		return err
	}
	r.inStore = r.own(staged) != nil
	previous, err := r.Stored.previous().value(ctx)
	if err != nil {
		return err
	}
	begun := staged
	if r.own(previous) != nil && staged == nil {
		begun = present // its value was replaced, and only the old key slots are left to wipe
	}
	if err := r.resume(begun); err != nil {
		return err
	}
	if r.replaced = present.Equal(r.fresh); r.replaced {
		r.old = previous // nil: its key slots are wiped
	}
	return nil
}

// resume chooses the new passphrase: that of a change that was begun, which may be nil, or a given or a random one.
func (r *changing) resume(begun *secrets.Secret) error {
	switch {
	case begun != nil && r.New != nil && !r.New.Equal(begun):
		return fmt.Errorf("%w, with another new passphrase: finish it first, by a change of %s without a new passphrase", ErrUnfinished, r.Stored)
	case begun != nil:
		r.fresh, r.resumed = begun, true
		if r.New == nil && looksRandom(begun) {
			r.slow = 0
		}
	case r.fresh == nil:
		r.fresh, r.slow = r.own(randomPassphrase()), 0
	}
	return nil
}

// examine opens each volume by the old and the new passphrase, and finds a spare key slot.
func (r *changing) examine(ctx context.Context) error {
	var all error
	for _, v := range r.volumes {
		if err := r.examineOne(ctx, v); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", v.file(), err))
		}
	}
	return all
}

func (r *changing) examineOne(ctx context.Context, v *changingVolume) (err error) {
	if r.resumed || r.replaced || r.New != nil {
		if v.fresh, err = v.tryUnlock(ctx, r.fresh); err != nil {
			return err
		}
	}
	switch {
	case v.fresh != nil:
	case r.Phase == PhaseCommit:
		return ErrNotStaged
	case r.old == nil:
		return fmt.Errorf("%w: neither the value of the secret nor that of an earlier change opens it", ErrWrongPassphrase)
	default:
		if v.key, err = v.unlock(ctx, r.old, nil); err != nil {
			return err
		}
	}
	if !r.DryRun {
		if _, err := luks.FinishWipes(v); err != nil {
			return err
		}
	}
	if v.fresh != nil {
		return nil
	}
	_, err = v.spareSlot()
	return err
}

// change does what is not done yet.
func (r *changing) change(ctx context.Context) error {
	if err := r.stage(ctx); err != nil || r.Phase == PhaseStage {
		return err
	}
	// From here on it is a matter of seconds, and an end in between would only be work for another run.
	ctx = context.WithoutCancel(ctx)
	if err := r.replace(ctx); err != nil {
		return &LeftError{err, []string{"the new passphrase beside the old one: the same change, run again, finishes"}}
	}
	if err := r.commit(ctx); err != nil {
		return &LeftError{err, []string{"key slots of the old passphrase: the same change, run again, finishes"}}
	}
	if err := r.cleanUp(ctx); err != nil {
		return &LeftError{err, []string{"a secret of the change beside " + r.Stored.String() + ": the same change, run again, finishes"}}
	}
	return nil
}

// stage puts the new passphrase into the store, and then into each volume.
func (r *changing) stage(ctx context.Context) error {
	// Also if it opens all volumes already: a run after a crash has to find it.
	if r.Stored != nil && !r.inStore && !r.replaced {
		if err := r.Stored.staged().keep(ctx, r.fresh); err != nil {
			return r.unstage(ctx, err)
		}
		r.inStore = true
	}
	for _, v := range r.volumes {
		if v.fresh != nil {
			continue
		}
		var err error
		if v.fresh, err = v.add(ctx, v.key, r.fresh, r.slow); err != nil {
			return r.unstage(ctx, fmt.Errorf("%s: %w", v.file(), err))
		}
		v.added = true
	}
	return nil
}

// unstage ends a run that has failed to stage: without a trace if no volume has the new passphrase.
func (r *changing) unstage(ctx context.Context, err error) error {
	var left *LeftError
	switch {
	case errors.As(err, &left):
	case r.resumed, slices.ContainsFunc(r.volumes, func(v *changingVolume) bool { return v.fresh != nil }):
	case r.Stored == nil:
		return err
	default:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
		defer cancel()
		removed := r.Stored.staged().remove(ctx)
		if removed == nil {
			return err
		}
		return &LeftError{err, []string{fmt.Sprintf("%s (%v)", r.Stored.staged(), removed)}}
	}
	return &LeftError{err, []string{"the new passphrase on some volumes, beside the old one: the same change, run again, finishes"}}
}

// replace replaces the value of the secret, once every volume is opened by the new one. The old one is kept beside it until
// its key slots are wiped.
func (r *changing) replace(ctx context.Context) error {
	if r.Stored == nil || r.replaced {
		return nil
	}
	if err := r.Stored.previous().keep(ctx, r.old); err != nil {
		return err
	}
	if err := r.Stored.replace(ctx, r.fresh); err != nil {
		return err
	}
	r.replaced, r.changed = true, true
	return nil
}

// commit wipes the key slots that the old passphrase opens.
func (r *changing) commit(ctx context.Context) error {
	if r.old == nil || r.old.Equal(r.fresh) {
		return nil
	}
	var all error
	for _, v := range r.volumes {
		var err error
		if v.wiped, err = v.wipeAll(ctx, v.fresh, r.old); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", v.file(), err))
		}
	}
	return all
}

// cleanUp removes the secrets of the change, that with the old passphrase first: without it, the other one only says that
// the change is done.
func (r *changing) cleanUp(ctx context.Context) error {
	if r.Stored == nil {
		return nil
	}
	if err := r.Stored.previous().remove(ctx); err != nil {
		return err
	}
	return r.Stored.staged().remove(ctx)
}

// result returns what was done, or is to be done.
func (r *changing) result() *Changed {
	out := &Changed{Resumed: r.resumed, Replaced: r.changed}
	for _, v := range r.volumes {
		c := VolumeChanged{Location: v.Location, Added: v.added, Wiped: v.wiped}
		switch {
		case v.fresh != nil:
			c.Slot = v.fresh.Slot()
		case r.DryRun:
			c.Added = true
			c.Slot, _ = v.spareSlot() // examine has found it
		}
		out.Volumes = append(out.Volumes, c)
	}
	return out
}
