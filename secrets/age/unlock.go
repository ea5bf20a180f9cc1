package age

import (
	"context"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/opened"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Unlock implements [secrets.Unlocker]. The kernel keeps the identity, and not its
// passphrase. The key is bound to the file of the identity: if that is replaced, also by
// one with another passphrase for the same keys, the store is locked.
func (s *Store) Unlock(ctx context.Context, limit secrets.Limit) (secrets.LockState, error) {
	state, err := storecall.Files(ctx, s.keys.path, func() (secrets.LockState, error) { return s.keys.unlock(ctx, limit) }, nil)
	return state, storecall.Fail(s, secrets.Reference{}, err)
}

// Lock implements [secrets.Unlocker]. It does not read the identity. Identities that this
// Store has opened by a passphrase of its own stay open in it.
func (s *Store) Lock(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, storecall.Fail(s, secrets.Reference{}, err)
	}
	locked, err := opened.Forget(s.keys.name())
	return locked, storecall.Fail(s, secrets.Reference{}, err)
}

// LockState implements [secrets.Unlocker].
func (s *Store) LockState(ctx context.Context) (secrets.LockState, error) {
	state, err := storecall.Files(ctx, s.keys.path, func() (secrets.LockState, error) { return s.keys.lockState(ctx) }, nil)
	return state, storecall.Fail(s, secrets.Reference{}, err)
}

func (i *identity) lockState(ctx context.Context) (secrets.LockState, error) {
	none := secrets.LockState{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	content, err := i.existing()
	if err != nil {
		return none, err
	}
	defer content.Wipe()
	if !isProtected(content) {
		return none, nil
	}
	key, state := opened.Find(i.name(), opened.Bind(content))
	key.Wipe()
	return state, nil
}

func (i *identity) unlock(ctx context.Context, limit secrets.Limit) (secrets.LockState, error) {
	none := secrets.LockState{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	content, err := i.existing()
	if err != nil {
		return none, err
	}
	defer content.Wipe()
	if !isProtected(content) {
		_, err := i.parseClear(content)
		return none, err
	}
	if err := opened.Check(); err != nil {
		return none, err
	}
	clear, err := i.decrypt(ctx, content, "")
	if err != nil {
		return none, err
	}
	defer clear.Wipe()
	if _, err := i.parse(clear); err != nil {
		return none, err
	}
	until, err := opened.Keep(i.name(), clear, opened.Bind(content), limit)
	if err != nil {
		return none, err
	}
	return secrets.LockState{Protected: true, Unlocked: true, Until: until, Suspend: limit.Suspend}, nil
}
