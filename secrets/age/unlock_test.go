package age_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/internal/opened"
)

// unlockable returns the directory of a store with a passphrase, "open sesame", and a
// secret in it. Its key is destroyed after the test.
func unlockable(t *testing.T) (string, secrets.Document) {
	t.Helper()
	if err := opened.Check(); err != nil {
		t.Skipf("the kernel keeps no keys here: %v", err)
	}
	answer, _ := asked("open sesame")
	path, d := filled(t, age.Options{Protect: true, Passphrase: answer, WorkFactor: cheap})
	t.Cleanup(func() { must.Get(age.New(path, age.Options{}).Lock(context.Background()))(t) })
	return path, d
}

func typing(path, passphrase string) *age.Store {
	answer, _ := asked(passphrase)
	return age.New(path, age.Options{Passphrase: answer})
}

// TestUnlock: once unlocked, a store that cannot ask finds its secrets, until it is locked.
func TestUnlock(t *testing.T) {
	t.Parallel()
	path, d := unlockable(t)
	hook := age.New(path, age.Options{}) // one store throughout: it must not remember the key
	state := func(want secrets.LockState) {
		t.Helper()
		if got := must.Get(hook.LockState(t.Context()))(t); got != want {
			t.Errorf("state %+v, want %+v", got, want)
		}
	}
	locked := secrets.LockState{Protected: true}
	state(locked)
	storetest.Fails(t, hook, d.Reference(), secrets.ErrPassphrase, "unlock the store")

	for wrong, want := range map[string]error{"open barley": secrets.ErrWrongPassphrase, "": secrets.ErrDenied} {
		if _, err := typing(path, wrong).Unlock(t.Context(), secrets.Limit{}); !errors.Is(err, want) || !errors.Is(err, secrets.ErrDenied) {
			t.Error(err)
		}
		state(locked) // the attempt is not kept
	}
	if _, err := hook.Unlock(t.Context(), secrets.Limit{}); !errors.Is(err, secrets.ErrPassphrase) {
		t.Errorf("without a passphrase: %v", err)
	}
	for range 2 {
		got := must.Get(typing(path, "open sesame").Unlock(t.Context(), secrets.Limit{}))(t)
		state(got)
		storetest.Finds(t, hook, d.Reference(), "confidential")
	}
	// A wrong passphrase does not lock an unlocked store.
	if _, err := typing(path, "open barley").Unlock(t.Context(), secrets.Limit{}); !errors.Is(err, secrets.ErrWrongPassphrase) {
		t.Error(err)
	}
	storetest.Finds(t, hook, d.Reference(), "confidential")
	got := must.Get(typing(path, "open sesame").Unlock(t.Context(), secrets.Limit{For: time.Hour, Suspend: true}))(t)
	if !got.Suspend || time.Until(got.Until) < 59*time.Minute || time.Until(got.Until) > 61*time.Minute {
		t.Errorf("%+v", got)
	}
	state(got)
	for _, want := range []bool{true, false} {
		if was, err := hook.Lock(t.Context()); was != want || err != nil {
			t.Errorf("%t, %v", was, err)
		}
		state(locked)
		storetest.Fails(t, hook, d.Reference(), secrets.ErrPassphrase, "cannot prompt")
	}
}

// TestKernelKeepsTheIdentity: and not the passphrase.
func TestKernelKeepsTheIdentity(t *testing.T) {
	t.Parallel()
	path, _ := unlockable(t)
	must.Get(typing(path, "open sesame").Unlock(t.Context(), secrets.Limit{}))(t)
	id := must.Get(unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "luksplug:age:"+path+"/identity.txt", 0))(t)
	payload := make([]byte, 4096)
	n := must.Get(unix.KeyctlBuffer(unix.KEYCTL_READ, id, payload, 0))(t)
	if text := string(payload[:n]); !strings.Contains(text, "AGE-SECRET-KEY-1") || strings.Contains(text, "open sesame") {
		t.Errorf("the kernel keeps %d bytes, with the identity %t, with the passphrase %t", n, strings.Contains(text, "AGE-SECRET-KEY-1"), strings.Contains(text, "open sesame"))
	}
}

// TestReplacedIdentityIsLocked: the key is that of one file, wherever it is from.
func TestReplacedIdentityIsLocked(t *testing.T) {
	t.Parallel()
	path, d := unlockable(t)
	store := age.New(path, age.Options{})
	must.Get(typing(path, "open sesame").Unlock(t.Context(), secrets.Limit{}))(t)
	other, _ := unlockable(t)
	file := filepath.Join(path, "identity.txt")
	content := must.Get(os.ReadFile(file))(t)
	must.OK(t, os.WriteFile(file, must.Get(os.ReadFile(filepath.Join(other, "identity.txt")))(t), 0o600))
	storetest.Fails(t, store, d.Reference(), secrets.ErrPassphrase, "was unlocked, but the encrypted key was replaced")
	if state := must.Get(store.LockState(t.Context()))(t); state.Unlocked || state.Ended == "" {
		t.Errorf("%+v", state)
	}
	must.OK(t, os.WriteFile(file, content, 0o600))
	storetest.Finds(t, store, d.Reference(), "confidential")
	// Without the file there is nothing to unlock, and what is kept can be locked.
	must.OK(t, os.Remove(file))
	for what, err := range map[string]error{"state": stateError(t, store), "unlock": unlockError(t, store)} {
		if !errors.Is(err, secrets.ErrLocked) || errors.Is(err, secrets.ErrPassphrase) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if was, err := store.Lock(t.Context()); !was || err != nil {
		t.Errorf("%t, %v", was, err)
	}
}

func stateError(t *testing.T, s *age.Store) error { _, err := s.LockState(t.Context()); return err }

func unlockError(t *testing.T, s *age.Store) error {
	_, err := s.Unlock(t.Context(), secrets.Limit{})
	return err
}

// TestOpenStoreIsNotUnlocked: an identity in clear needs no unlocking, and is not kept.
func TestOpenStoreIsNotUnlocked(t *testing.T) {
	t.Parallel()
	path, _ := filled(t, age.Options{})
	store := age.New(path, age.Options{})
	if state, err := store.Unlock(t.Context(), secrets.Limit{}); state != (secrets.LockState{}) || err != nil {
		t.Errorf("%+v, %v", state, err)
	}
	if was, err := store.Lock(t.Context()); was || err != nil {
		t.Errorf("%t, %v", was, err)
	}
	if _, err := age.New(path, age.Options{Protect: true}).Unlock(t.Context(), secrets.Limit{}); !errors.Is(err, secrets.ErrDenied) {
		t.Errorf("where a passphrase is required: %v", err)
	}
}

// TestLockDuringUse: look-ups, unlocks and locks at once. A look-up finds the secret, or
// the store is locked.
func TestLockDuringUse(t *testing.T) {
	t.Parallel()
	path, d := unlockable(t)
	store := age.New(path, age.Options{})
	var wg sync.WaitGroup
	found, locked := 0, 0
	for range 3 {
		wg.Go(func() {
			for range 10 {
				must.Get(typing(path, "open sesame").Unlock(t.Context(), secrets.Limit{}))(t)
			}
		})
		wg.Go(func() {
			for range 20 {
				must.Get(store.Lock(t.Context()))(t)
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Go(func() {
		for range 200 {
			value, err := store.Lookup(t.Context(), d.Reference())
			switch {
			case err == nil && value.Equal(secrets.New([]byte("confidential"))):
				found++
			case errors.Is(err, secrets.ErrPassphrase):
				locked++
			default:
				t.Error(err)
			}
			value.Wipe()
		}
	})
	wg.Wait()
	if found+locked != 200 {
		t.Errorf("found %d, locked %d", found, locked)
	}
}

// TestUnlockEndsWithItsContext: ^C and a time limit at the question.
func TestUnlockEndsWithItsContext(t *testing.T) {
	t.Parallel()
	path, _ := unlockable(t)
	ctx, cancel := context.WithCancel(t.Context())
	store := age.New(path, age.Options{Passphrase: func(ctx context.Context, _ string) (*secrets.Secret, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if _, err := store.Unlock(ctx, secrets.Limit{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if state := must.Get(store.LockState(t.Context()))(t); state.Unlocked {
		t.Errorf("%+v", state)
	}
}
