package age_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	fage "filippo.io/age"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
)

func Example() {
	dir, err := os.MkdirTemp("", "secrets")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	store := age.New(dir, age.Options{})

	d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/var/lib/images/vm1.img"}
	value := secrets.New([]byte("correct horse"))
	defer value.Wipe()
	if err := errors.Join(store.Define(ctx, d), store.Set(ctx, d.Reference(), value)); err != nil {
		panic(err)
	}
	found, err := store.Lookup(ctx, secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/images/vm1.img"})
	if err != nil {
		panic(err)
	}
	defer found.Wipe()
	fmt.Println(found.Equal(value))
	// Output: true
}

// asked returns an Options.Passphrase that returns passphrase, and the number of its calls.
func asked(passphrase string) (func(context.Context, string) (*secrets.Secret, error), *int) {
	var mu sync.Mutex
	n := new(int)
	return func(context.Context, string) (*secrets.Secret, error) {
		mu.Lock()
		defer mu.Unlock()
		*n++
		return secrets.New([]byte(passphrase)), nil
	}, n
}

const cheap = 4 // scrypt's work factor in tests

// strangers writes a value that is encrypted to another recipient.
func strangers(t *testing.T, path string) {
	t.Helper()
	other := must.Get(fage.GenerateX25519Identity())(t)
	var out bytes.Buffer
	w := must.Get(fage.Encrypt(&out, other.Recipient()))(t)
	_, err := w.Write([]byte("confidential"))
	must.OK(t, err, w.Close(), os.WriteFile(path, out.Bytes(), 0o600))
}

// fixture returns the fixture of a store on path.
func fixture(t *testing.T, path string, o age.Options) storetest.Fixture {
	store := age.New(path, o)
	value := func(t *testing.T, ref secrets.Reference) string {
		documents := must.Get(store.List(t.Context()))(t)
		d := must.Get(secrets.Find(documents, ref))(t)
		return filepath.Join(path, d.UUID.String()+".age")
	}
	return storetest.Fixture{
		Store: store,
		Deny:  func(t *testing.T, ref secrets.Reference) { strangers(t, value(t, ref)) },
		Break: func(t *testing.T) { must.OK(t, os.RemoveAll(path), os.WriteFile(path, nil, 0o600)) },
		Damage: func(t *testing.T, ref secrets.Reference) {
			name := value(t, ref)
			data := must.Get(os.ReadFile(name))(t)
			must.OK(t, os.WriteFile(name, data[:len(data)-1], 0o600),
				os.WriteFile(strings.TrimSuffix(name, ".age")+".xml", []byte("<secret>"), 0o600))
		},
		Reopen:     func(*testing.T) secrets.Store { return age.New(path, o) },
		Persistent: true,
	}
}

// directory returns a path where the store will create its directory, not in memory.
func directory(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "secrets")
}

func TestStore(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]func(t *testing.T) age.Options{
		"X25519":       func(*testing.T) age.Options { return age.Options{} },
		"post-quantum": func(*testing.T) age.Options { return age.Options{PostQuantum: true} },
		"passphrase": func(*testing.T) age.Options {
			answer, _ := asked("open sesame")
			return age.Options{Protect: true, Passphrase: answer, WorkFactor: cheap}
		},
		"separate identity": func(t *testing.T) age.Options {
			return age.Options{Identity: filepath.Join(t.TempDir(), "new", "key")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				path := directory(t)
				o := options(t)
				must.OK(t, os.Mkdir(path, 0o700)) // or listing the empty store is an error
				return fixture(t, path, o)
			})
		})
	}
}

// filled returns a directory with one secret in it.
func filled(t *testing.T, o age.Options) (path string, d secrets.Document) {
	t.Helper()
	path = directory(t)
	d = secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/x"}
	store := age.New(path, o)
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential"))))
	return path, d
}

func TestFilesAreClosedToOthers(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	for _, name := range []string{"", "identity.txt", "recipients.txt", d.UUID.String() + ".age", d.UUID.String() + ".xml"} {
		info := must.Get(os.Stat(filepath.Join(path, name)))(t)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q has mode %v", name, info.Mode())
		}
	}
	must.OK(t, os.Chmod(filepath.Join(path, "identity.txt"), 0o644))
	storetest.Fails(t, age.New(path, age.Options{}), d.Reference(), secrets.ErrDenied, "identity.txt")
}

func TestMissingDirectory(t *testing.T) {
	t.Parallel()
	store := age.New(directory(t), age.Options{})
	storetest.Fails(t, store, storetest.ByUUID(), secrets.ErrUnreachable, "the first secret that is defined makes it")
}

func TestPassphraseIsAskedOnce(t *testing.T) {
	t.Parallel()
	answer, n := asked("open sesame")
	o := age.Options{Protect: true, Passphrase: answer, WorkFactor: cheap}
	path, d := filled(t, o)
	if *n != 2 {
		t.Errorf("a new passphrase was asked for %d times, want 2", *n)
	}
	*n = 0
	store := age.New(path, age.Options{Passphrase: answer})
	second := secrets.Document{UUID: uuid.New()}
	must.OK(t, store.Define(t.Context(), second), store.Set(t.Context(), second.Reference(), secrets.New([]byte("x"))))
	if *n != 0 {
		t.Errorf("defining and setting asked %d times", *n)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { storetest.Finds(t, store, d.Reference(), "confidential") })
	}
	wg.Wait()
	if *n != 1 {
		t.Errorf("asked %d times, want once", *n)
	}
}

func TestPassphraseFailures(t *testing.T) {
	t.Parallel()
	answer, _ := asked("open sesame")
	path, d := filled(t, age.Options{Protect: true, Passphrase: answer, WorkFactor: cheap})
	identity := must.Get(os.ReadFile(filepath.Join(path, "identity.txt")))(t)
	if bytes.Contains(identity, []byte("AGE-SECRET-KEY")) {
		t.Error("the identity is in clear")
	}

	storetest.Fails(t, age.New(path, age.Options{}), d.Reference(), secrets.ErrLocked, "cannot prompt")
	wrong, _ := asked("open barley")
	storetest.Fails(t, age.New(path, age.Options{Passphrase: wrong}), d.Reference(), secrets.ErrDenied, "is wrong")
	empty, _ := asked("")
	storetest.Fails(t, age.New(path, age.Options{Passphrase: empty}), d.Reference(), secrets.ErrDenied, "empty")
	gone := func(context.Context, string) (*secrets.Secret, error) { return nil, os.ErrClosed }
	storetest.Fails(t, age.New(path, age.Options{Passphrase: gone}), d.Reference(), secrets.ErrLocked, os.ErrClosed.Error())

	// A prompt ends with the context, for all look-ups that wait for it.
	ctx, cancel := context.WithCancel(t.Context())
	waiting := func(ctx context.Context, _ string) (*secrets.Secret, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	store := age.New(path, age.Options{Passphrase: waiting})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := store.Lookup(ctx, d.Reference()); !errors.Is(err, context.Canceled) || errors.Is(err, secrets.ErrLocked) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// After an interrupted prompt, the next look-up asks again.
	store = age.New(path, age.Options{Passphrase: answer})
	storetest.Finds(t, store, d.Reference(), "confidential")
}

func TestNewPassphrases(t *testing.T) {
	t.Parallel()
	answers := []string{"one", "two"}
	different := func(context.Context, string) (*secrets.Secret, error) {
		s := secrets.New([]byte(answers[0]))
		answers = answers[1:]
		return s, nil
	}
	path := directory(t)
	d := secrets.Document{UUID: uuid.New()}
	err := age.New(path, age.Options{Protect: true, Passphrase: different}).Define(t.Context(), d)
	if !errors.Is(err, secrets.ErrDenied) || !strings.Contains(err.Error(), "differ") {
		t.Error(err)
	}
	err = age.New(path, age.Options{Protect: true}).Define(t.Context(), d)
	if !errors.Is(err, secrets.ErrLocked) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(path, "identity.txt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an identity was made: %v", err)
	}
}

func TestIdentityInClearIsRefusedWhereItIsToBeProtected(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	answer, _ := asked("x")
	storetest.Fails(t, age.New(path, age.Options{Protect: true, Passphrase: answer}), d.Reference(), secrets.ErrDenied, "not protected")
}

// TestRoles checks that Set needs no identity, and Lookup no recipients.
func TestRoles(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	moved := filepath.Join(t.TempDir(), "key")
	must.OK(t, os.Rename(filepath.Join(path, "identity.txt"), moved))

	definer := age.New(path, age.Options{})
	must.OK(t, definer.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential"))))
	storetest.Fails(t, definer, d.Reference(), secrets.ErrLocked, "no identity")
	if _, err := os.Stat(filepath.Join(path, "identity.txt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another identity was made: %v", err)
	}
	must.OK(t, os.Remove(filepath.Join(path, "recipients.txt")))
	storetest.Finds(t, age.New(path, age.Options{Identity: moved}), d.Reference(), "confidential")

	// Without both, Define must not create a second identity.
	err := definer.Define(t.Context(), secrets.Document{UUID: uuid.New()})
	if !errors.Is(err, secrets.ErrDamaged) || !strings.Contains(err.Error(), "restore them") {
		t.Error(err)
	}
	// Set restores the recipients from the identity.
	must.OK(t, age.New(path, age.Options{Identity: moved}).Set(t.Context(), d.Reference(), secrets.New([]byte("confidential"))))
	storetest.Finds(t, age.New(path, age.Options{Identity: moved}), d.Reference(), "confidential")
}

func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	must.Write(t, filepath.Join(path, "recipients.txt"), "age1nobody\n")
	err := age.New(path, age.Options{}).Set(t.Context(), d.Reference(), secrets.New([]byte("x")))
	if !errors.Is(err, secrets.ErrDamaged) || !strings.Contains(err.Error(), "recipients.txt") {
		t.Error(err)
	}
	storetest.Finds(t, age.New(path, age.Options{}), d.Reference(), "confidential") // the old value
	must.Write(t, filepath.Join(path, "identity.txt"), "confidential\n")
	storetest.Fails(t, age.New(path, age.Options{}), d.Reference(), secrets.ErrDamaged, "identity.txt")
	if _, err := age.New(path, age.Options{}).Lookup(t.Context(), d.Reference()); strings.Contains(err.Error(), "confidential") {
		t.Errorf("the error quotes the identity: %v", err)
	}
}

// TestDamagedDocument checks that a look-up by usage does not ignore an unreadable document.
func TestDamagedDocument(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	damaged := uuid.New()
	must.Write(t, filepath.Join(path, damaged.String()+".xml"), "<secret")
	store := age.New(path, age.Options{})
	storetest.Finds(t, store, storetest.ByUsage("/x"), "confidential")
	storetest.Fails(t, store, storetest.ByUsage("/y"), secrets.ErrDamaged, damaged.String())
	storetest.Fails(t, store, storetest.ByUUID(), secrets.ErrNotFound, "")

	// A document in the file of another uuid.
	text, err := os.ReadFile(filepath.Join(path, d.UUID.String()+".xml"))
	must.OK(t, err, os.WriteFile(filepath.Join(path, damaged.String()+".xml"), text, 0o600))
	storetest.Fails(t, store, secrets.Reference{Type: secrets.Passphrase, UUID: damaged}, secrets.ErrDamaged, d.UUID.String())
	// Define replaces it.
	must.OK(t, store.Define(t.Context(), secrets.Document{UUID: damaged}))
	storetest.Fails(t, store, secrets.Reference{Type: secrets.Passphrase, UUID: damaged}, secrets.ErrNoValue, "")
}

// TestEveryDamageIsNoticed checks that Lookup never returns a part of a value, or another.
func TestEveryDamageIsNoticed(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	name := filepath.Join(path, d.UUID.String()+".age")
	good := must.Get(os.ReadFile(name))(t)
	store := age.New(path, age.Options{})
	for i := 0; i < len(good); i += 5 { // each look-up takes a key exchange
		for what, bad := range map[string][]byte{"cut off": good[:i], "flipped": bytes.Clone(good)} {
			if what == "flipped" {
				bad[i] ^= 0x10
			}
			must.Write(t, name, bad)
			found, err := store.Lookup(t.Context(), d.Reference())
			// A damaged recipient stanza looks like that of another recipient.
			if found != nil || !errors.Is(err, secrets.ErrDamaged) && !errors.Is(err, secrets.ErrDenied) {
				t.Fatalf("%s at byte %d: %v", what, i, err)
			}
		}
	}
}
