package vmkeys_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

const (
	vm1 = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
	vm2 = "6695eb01-f6a4-8304-79aa-97f2502e193f"
)

func Example() {
	store := vmkeys.New(vmkeys.Dir, func() string { return vm1 })
	fmt.Println(store)
	_, err := vmkeys.New("/nonexistent", func() string { return "" }).Lookup(context.Background(), secrets.Reference{Type: secrets.Passphrase, Usage: "/vm1.img"})
	fmt.Println(errors.Is(err, secrets.ErrNotFound), err)
	// Output:
	// vm:/run/luksplug/keys?uuid=3e3fce45-4f53-4fa7-bb32-11f34168b82b
	// true secret with usage "/vm1.img": key store vm:/nonexistent: no such secret: no VM was named: use vm:?uuid=UUID
}

func store(directory, vm string) *vmkeys.Store {
	return vmkeys.New(directory, func() string { return vm })
}

func wipe(directory, vm string) error { return vmkeys.Places{Memory: directory}.Wipe(vm) }

// put writes a key as a management server does.
func put(t *testing.T, directory, vm string, ref secrets.Reference, value []byte) string {
	t.Helper()
	path := filepath.Join(directory, vm, dir.FileName(ref))
	must.OK(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, value, 0o600)))
	return path
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		directory := must.Dir(t, "/dev/shm")
		return storetest.Fixture{
			Store: store(directory, vm1),
			Put: func(t *testing.T, ref secrets.Reference, value []byte) {
				put(t, directory, vm1, ref, value)
			},
			Deny: func(t *testing.T, ref secrets.Reference) {
				must.OK(t, os.Chmod(filepath.Join(directory, vm1, dir.FileName(ref)), 0o640))
			},
			Damage: func(t *testing.T, ref secrets.Reference) {
				put(t, directory, vm1, secrets.Reference{UUID: ref.UUID, Usage: ref.Usage, Type: ref.Type}, nil)
				must.Write(t, filepath.Join(directory, vm1, dir.FileName(ref)+".xml"), "<secret>")
			},
			Reopen: func(*testing.T) secrets.Store { return store(directory, vm1) },
		}
	})
}

// TestWipeIsBounded: what is no key does not stop the destruction of the others: a pipe, and
// a file of any size.
func TestWipeIsBounded(t *testing.T) {
	t.Parallel()
	directory := must.Dir(t, "/dev/shm")
	path := filepath.Dir(put(t, directory, vm1, storetest.ByUUID(), []byte("key")))
	huge := filepath.Join(path, "huge")
	must.OK(t, unix.Mkfifo(filepath.Join(path, "a pipe"), 0o600), os.WriteFile(huge, nil, 0o600), os.Truncate(huge, 1<<40))
	must.OK(t, wipe(directory, vm1))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestKeptApart checks that Lookup finds only the VM's keys, and Wipe destroys only them.
func TestKeptApart(t *testing.T) {
	t.Parallel()
	directory, ref := must.Dir(t, "/dev/shm"), storetest.ByUUID()
	first := put(t, directory, vm1, ref, []byte("first"))
	put(t, directory, vm2, ref, []byte("second"))
	seen := must.Get(os.Open(first))(t) // stays open, to read what Wipe writes
	defer func() { _ = seen.Close() }()
	find := func(vm string) string {
		t.Helper()
		secret, err := store(directory, vm).Lookup(t.Context(), ref)
		if errors.Is(err, secrets.ErrNotFound) {
			return ""
		}
		must.OK(t, err)
		defer secret.Wipe()
		value := ""
		_ = secret.Use(func(b []byte) error { value = string(b); return nil })
		return value
	}
	if find(vm1) != "first" || find(strings.ToUpper(vm2)) != "second" || find("") != "" || find(uuid.NewString()) != "" {
		t.Error("another VM's keys are found")
	}
	for range 2 {
		must.OK(t, wipe(directory, vm1))
	}
	if find(vm1) != "" || find(vm2) != "second" {
		t.Error("Wipe left keys of the VM, or destroyed those of another")
	}
	if _, err := os.Lstat(filepath.Dir(first)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the VM's directory: %v", err)
	}
	left := make([]byte, 16)
	if n, _ := seen.Read(left); strings.Trim(string(left[:n]), "\x00") != "" || n != len("first") {
		t.Errorf("the file holds %q", left[:n])
	}
}

// TestWipeGoesOn checks that Wipe also removes links and subdirectories, and changes
// nothing outside of the VM's directory.
func TestWipeGoesOn(t *testing.T) {
	t.Parallel()
	directory := must.Dir(t, "/dev/shm")
	outside := filepath.Join(directory, "outside")
	put(t, directory, vm1, storetest.ByUUID(), []byte("value"))
	inside := filepath.Join(directory, vm1)
	err := errors.Join(os.WriteFile(outside, []byte("mine"), 0o600), os.Symlink(outside, filepath.Join(inside, "link")),
		os.Symlink(directory, filepath.Join(inside, "directory")), os.Mkdir(filepath.Join(inside, "sub"), 0o700),
		os.WriteFile(filepath.Join(inside, "sub", "key"), []byte("value"), 0o400))
	must.OK(t, err)
	if err := wipe(directory, vm1); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "mine" {
		t.Errorf("the file outside: %q %v", text, err)
	}
	if _, err := os.Lstat(inside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	for _, wrong := range []string{"", "..", ".", "vm1", "../" + vm1} {
		if err := wipe(directory, wrong); err == nil {
			t.Errorf("%q is taken for a UUID", wrong)
		}
	}
}

// TestNotInMemory checks that keys in a directory that survives a reboot are neither
// written nor read.
func TestNotInMemory(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	s := store(directory, vm1)
	if err := s.Define(t.Context(), secrets.Document{UUID: uuid.New()}); !errors.Is(err, secrets.ErrPersistent) {
		t.Skipf("the temporary directory is in memory: %v", err)
	}
	ref := storetest.ByUUID()
	put(t, directory, vm1, ref, []byte("value"))
	storetest.Fails(t, s, ref, secrets.ErrDenied, "")
}

func TestNoVM(t *testing.T) {
	t.Parallel()
	s := store(must.Dir(t, "/dev/shm"), "")
	if err := s.Define(t.Context(), secrets.Document{UUID: uuid.New()}); !errors.Is(err, vmkeys.ErrNoVM) {
		t.Errorf("got %v", err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("got %v %v", all, err)
	}
	if _, err := store(must.Dir(t, "/dev/shm"), "not-a-uuid").Lookup(t.Context(), storetest.ByUUID()); err == nil {
		t.Error("an invalid UUID of the VM was accepted")
	}
}

// TestUntrustedKeyDirectory: keys are neither read nor written where another user can
// change the directory of all VMs, who could give a VM another key.
func TestUntrustedKeyDirectory(t *testing.T) {
	t.Parallel()
	directory := must.Dir(t, "/dev/shm")
	ref := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()}
	put(t, directory, vm1, ref, []byte("key"))
	must.Get(store(directory, vm1).Lookup(t.Context(), ref))(t).Wipe()
	must.OK(t, os.Chmod(directory, 0o777))
	_, err := store(directory, vm1).Lookup(t.Context(), ref)
	document := secrets.Document{UUID: uuid.New(), Ephemeral: true}
	for what, err := range map[string]error{"look up": err, "define": store(directory, vm2).Define(t.Context(), document)} {
		if !errors.Is(err, fsutil.ErrUntrusted) || !errors.Is(err, secrets.ErrDenied) {
			t.Errorf("%s: %v, want ErrUntrusted", what, err)
		}
	}
	// A user has put a link there, through which root would overwrite what it leads to.
	victim := must.Dir(t, "/dev/shm")
	must.OK(t, os.WriteFile(filepath.Join(victim, "file"), []byte("text"), 0o600), os.Symlink(victim, filepath.Join(directory, vm2)))
	for _, mode := range []os.FileMode{0o777, 0o700} {
		must.OK(t, os.Chmod(directory, mode))
		if err := wipe(directory, vm2); !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("wipe: %v, want ErrUntrusted", err)
		}
	}
	if text := must.Get(os.ReadFile(filepath.Join(victim, "file")))(t); string(text) != "text" {
		t.Errorf("what the link leads to holds %q", text)
	}
	if entries := must.Get(os.ReadDir(directory))(t); len(entries) != 2 {
		t.Errorf("made %v", entries)
	}
}
