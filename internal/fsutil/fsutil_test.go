package fsutil_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestReplace(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	file := filepath.Join(path, "a")
	must.OK(t, os.WriteFile(file, []byte("old"), 0o600), os.WriteFile(file+".new", []byte("left by a killed run"), 0o600))
	old, dir := open(t, file), open(t, path)
	must.OK(t, fsutil.Replace(dir, "a", []byte("new"), fsutil.Options{Mode: 0o666, Durable: true}))
	text, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	must.OK(t, err, statErr)
	if string(text) != "new" || info.Mode() != 0o666 { // in spite of the umask
		t.Errorf("got %q, %v", text, info.Mode())
	}
	if info, err := old.Stat(); err != nil || info.Size() != 3 {
		t.Errorf("the old file has changed: %v", err)
	}
	must.OK(t, fsutil.Replace(nil, file, nil, fsutil.Options{Mode: 0o600, Temporary: filepath.Join(path, "t"), Durable: true}))
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v", entries, err)
	}
}

// TestRenameNew: a file gets a name that is free, and no other, also where rename(2) would replace a file.
func TestRenameNew(t *testing.T) {
	t.Parallel()
	for name, rename := range map[string]func(from, to string) error{"rename": fsutil.RenameNew, "link": fsutil.LinkNew} {
		dir := t.TempDir()
		from, to, taken := filepath.Join(dir, "from"), filepath.Join(dir, "to"), filepath.Join(dir, "taken")
		must.Write(t, from, "content")
		must.Write(t, taken, "other")
		if err := rename(from, taken); !errors.Is(err, fs.ErrExist) || string(must.Get(os.ReadFile(taken))(t)) != "other" {
			t.Errorf("%s to a name that is taken: %v", name, err)
		}
		must.OK(t, rename(from, to))
		if _, err := os.Lstat(from); !errors.Is(err, fs.ErrNotExist) || string(must.Get(os.ReadFile(to))(t)) != "content" {
			t.Errorf("%s: the old name: %v", name, err)
		}
		if err := rename(from, filepath.Join(dir, "third")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of no file: %v", name, err)
		}
	}
}

func TestReplaceFollowsNoLink(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	other, link := filepath.Join(path, "other"), filepath.Join(path, "link")
	must.OK(t, os.WriteFile(other, []byte("other"), 0o600), os.Symlink(other, link), os.Symlink(other, link+".new"))
	must.OK(t, fsutil.Replace(nil, link, []byte("new"), fsutil.Options{Mode: 0o600}))
	text, err := os.ReadFile(other)
	info, statErr := os.Lstat(link)
	must.OK(t, err, statErr)
	if string(text) != "other" || !info.Mode().IsRegular() {
		t.Errorf("got %q, %v", text, info.Mode())
	}
}

func TestReplaceFails(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	must.OK(t, os.Mkdir(filepath.Join(path, "a"), 0o700))
	if err := fsutil.Replace(open(t, path), "a", []byte("x"), fsutil.Options{Mode: 0o600}); !errors.Is(err, unix.EISDIR) {
		t.Errorf("got %v, want EISDIR", err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v", entries, err)
	}
}

func TestReplaceOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "a")
	must.OK(t, fsutil.Replace(nil, path, nil, fsutil.Options{Mode: 0o640, Owner: &fsutil.Owner{UID: 64999, GID: 64998}}))
	info, err := os.Stat(path)
	must.OK(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 64999 || st.Gid != 64998 || info.Mode() != 0o640 {
		t.Errorf("got %d:%d, %v", st.Uid, st.Gid, info.Mode())
	}
}

func TestOpenRegular(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	must.OK(t, os.WriteFile(filepath.Join(path, "file"), nil, 0o600), os.Symlink("file", filepath.Join(path, "link")),
		unix.Mkfifo(filepath.Join(path, "pipe"), 0o600), os.Mkdir(filepath.Join(path, "dir"), 0o700))
	dir := open(t, path)
	for name, want := range map[string]error{"file": nil, "link": fsutil.ErrNotRegular, "pipe": fsutil.ErrNotRegular, "dir": fsutil.ErrNotRegular, "none": fs.ErrNotExist} {
		f, err := fsutil.OpenRegular(dir, name)
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v", name, err)
		}
		if f != nil {
			must.OK(t, f.Close())
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	first, second := open(t, path), open(t, path)
	must.OK(t, fsutil.Lock(t.Context(), first))
	if err := fsutil.TryLock(second); !errors.Is(err, fsutil.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := fsutil.Lock(ctx, second); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fsutil.ErrLocked) {
		t.Errorf("got %v, want the deadline", err)
	}
	locked := make(chan error)
	go func() { locked <- fsutil.Lock(t.Context(), second) }()
	must.OK(t, first.Close(), <-locked)
}
