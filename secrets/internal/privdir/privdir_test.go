package privdir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
)

func open(t *testing.T, path string) (*privdir.Dir, *privdir.Writer) {
	t.Helper()
	f := must.Get(privdir.Open(path))(t)
	t.Cleanup(f.Close)
	w := must.Get(f.Lock(t.Context()))(t)
	return f, w
}

func read(t *testing.T, f *privdir.Dir, name string) string {
	t.Helper()
	content := must.Get(f.Read(name))(t)
	defer content.Wipe()
	var out []byte
	must.OK(t, content.Use(func(b []byte) error { out = bytes.Clone(b); return nil }))
	return string(out)
}

func TestMake(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	if _, err := privdir.Open(path); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
	for range 2 {
		f := must.Get(privdir.Make(path))(t)
		f.Close()
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	file := must.File(t, "")
	if _, err := privdir.Make(filepath.Join(file, "x")); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
}

func TestWriteReplaces(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	f, w := open(t, path)
	defer w.Unlock()
	old := must.Get(os.Create(filepath.Join(path, "a")))(t)
	defer func() { _ = old.Close() }() // only read
	for _, content := range []string{"one", "", "three"} {
		must.OK(t, w.Write("a", []byte(content)))
		if got := read(t, f, "a"); got != content {
			t.Errorf("wrote %q, read %q", content, got)
		}
	}
	if st, err := old.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("the old file was written to: %v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(path, "a")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	// The temporary file of a writer that was killed.
	must.OK(t, os.WriteFile(filepath.Join(path, ".new"), []byte("half"), 0o644))
	must.OK(t, w.Write("b", []byte("two")))
	names, err := f.Names()
	if err != nil || !slices.Equal(names, []string{".lock", "a", "b"}) {
		t.Errorf("%q, %v", names, err)
	}
	for range 2 {
		must.OK(t, w.Remove("a"))
	}
	if there, err := f.Has("a"); there || err != nil {
		t.Errorf("still there: %v", err)
	}
}

func TestFailedWriteLeavesTheOld(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	f, w := open(t, path)
	defer w.Unlock()
	must.OK(t, os.Mkdir(filepath.Join(path, "a"), 0o700))
	if err := w.Write("a", []byte("new")); !errors.Is(err, secrets.ErrDenied) {
		t.Error(err)
	}
	names, err := f.Names()
	if err != nil || !slices.Equal(names, []string{".lock", "a"}) {
		t.Errorf("%q, %v", names, err)
	}
}

func TestLockWaits(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	f, w := open(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := f.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second writer got in: %v", err)
	}
	locked := make(chan error)
	go func() {
		w2, err := f.Lock(t.Context())
		if err == nil {
			w2.Unlock()
		}
		locked <- err
	}()
	w.Unlock()
	if err := <-locked; err != nil {
		t.Error(err)
	}
}

func TestLinkAsLock(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	must.OK(t, os.Symlink("/etc/passwd", filepath.Join(path, ".lock")))
	f := must.Get(privdir.Open(path))(t)
	defer f.Close()
	if _, err := f.Lock(t.Context()); !errors.Is(err, secrets.ErrDenied) {
		t.Error(err)
	}
}

func TestInMemory(t *testing.T) {
	t.Parallel()
	for _, path := range []string{t.TempDir(), "/dev/shm", "/proc"} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			t.Skip(err)
		}
		f, err := privdir.Open(path)
		if err != nil {
			continue // /dev/shm is writable by all users
		}
		defer f.Close()
		if got, want := f.InMemory(), st.Type == unix.TMPFS_MAGIC; got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func Example() {
	path, err := os.MkdirTemp("", "dir")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(path) }()
	f, err := privdir.Make(filepath.Join(path, "secrets"))
	if err != nil {
		panic(err)
	}
	defer f.Close()
	w, err := f.Lock(context.Background())
	if err != nil {
		panic(err)
	}
	err = w.Write("key", []byte("value"))
	w.Unlock()
	content, readErr := f.Read("key")
	fmt.Println(content.Len(), err, readErr)
	// Output: 5 <nil> <nil>
}
