//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/opened"
)

// Unlock implements [secrets.Unlocker]. A token has no other key than the PIN, so the
// kernel keeps the PIN, for all stores of the token that name it and the module alike. A
// PIN that the token refuses later is forgotten, and not tried again.
func (t *token) Unlock(ctx context.Context, limit secrets.Limit) (secrets.LockState, error) {
	state, err := t.unlock(ctx, limit)
	return state, t.fail(secrets.Reference{}, err)
}

func (t *token) unlock(ctx context.Context, limit secrets.Limit) (secrets.LockState, error) {
	none := secrets.LockState{}
	if err := opened.Check(); err != nil {
		return none, err
	}
	// Another token, so that no PIN that this one knows is used.
	fresh := &token{options: t.options, name: t.name, unlocking: true}
	pin, err := within(ctx, fresh, func(*session) (*secrets.Secret, error) { return fresh.pin, nil })
	if err != nil || pin == nil { // or the token needs no PIN, or has a keypad
		return none, err
	}
	defer pin.Wipe()
	until, err := opened.Keep(t.options.URI.keptName(), pin, opened.Binding{}, limit)
	if err != nil {
		return none, err
	}
	return secrets.LockState{Protected: true, Unlocked: true, Until: until, Suspend: limit.Suspend}, nil
}

// Lock implements [secrets.Unlocker].
func (t *token) Lock(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, t.fail(secrets.Reference{}, err)
	}
	locked, err := opened.Forget(t.options.URI.keptName())
	return locked, t.fail(secrets.Reference{}, err)
}

// LockState implements [secrets.Unlocker]. It does not access the token, and takes it for
// one that needs a PIN, unless the URI has a source of the PIN.
func (t *token) LockState(ctx context.Context) (secrets.LockState, error) {
	if err := ctx.Err(); err != nil {
		return secrets.LockState{}, t.fail(secrets.Reference{}, err)
	}
	pin, state := opened.Find(t.options.URI.keptName(), opened.Binding{})
	pin.Wipe()
	state.Protected = state.Unlocked || t.options.URI.PINSource() == ""
	return state, nil
}

// keptName returns the name under which the kernel keeps the token's PIN: the URI's module
// and token, which may have several stores.
func (u URI) keptName() string {
	var parts []string
	for _, name := range pathAttributes() {
		if v, given := u.path[name]; given && !slices.Contains([]string{"type", "object", "id"}, name) {
			parts = append(parts, name+"="+url.PathEscape(v))
		}
	}
	for _, name := range []string{"module-name", "module-path"} {
		if v, given := u.query[name]; given {
			parts = append(parts, name+"="+url.PathEscape(v))
		}
	}
	return "pkcs11:" + strings.Join(parts, ";")
}
