package fsutil_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// stranger is a user without an account.
const stranger = 64999

// TestUntrustedDirectories: a directory that another user has made, or can change, is
// refused with one line that names it and tells what to do, and so is a directory in it.
// This holds for root as well.
func TestUntrustedDirectories(t *testing.T) {
	t.Parallel()
	mode := func(m os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) { must.OK(t, os.Chmod(dir, m)) }
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string)
		// self and below are texts of the refusal of the directory, and of one in it; ""
		// if it is accepted.
		self, below string
		root        bool // only root can make it
	}{
		"private":        {make: mode(0o700)},
		"for passing":    {make: mode(0o711)},
		"readable":       {make: mode(0o755)},
		"sticky":         {make: mode(0o777 | os.ModeSticky), self: "mode 1777, so others can write to it"},
		"writable":       {make: mode(0o777), self: "mode 0777, so others can write to it", below: "run chmod go-w on it"},
		"group writable": {make: mode(0o770), self: "mode 0770"},
		"foreign group":  {make: func(t *testing.T, dir string) { must.OK(t, os.Chown(dir, -1, stranger), os.Chmod(dir, 0o775)) }, self: "mode 0775", below: "mode 0775", root: true},
		"foreign":        {make: func(t *testing.T, dir string) { must.OK(t, os.Chown(dir, stranger, stranger)) }, self: "belongs to user 64999, and must belong to root: move it away", below: "belongs to user 64999", root: true},
		"a link":         {make: link, self: "is a symbolic link of user"},
		"a foreign link": {make: func(t *testing.T, dir string) { link(t, dir); must.OK(t, os.Lchown(dir, stranger, stranger)) }, self: "symbolic link of user 64999", below: "symbolic link of user 64999", root: true},
		"a relative link": {make: func(t *testing.T, dir string) {
			link(t, dir)
			must.OK(t, os.Remove(dir), os.Symlink("./../parent/elsewhere", dir))
		}, self: "is a symbolic link of user"},
		"a file": {make: func(t *testing.T, dir string) { must.OK(t, os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }, self: "is not a directory", below: "is not a directory"},
		"a pipe": {make: func(t *testing.T, dir string) { must.OK(t, os.Remove(dir), unix.Mkfifo(dir, 0o600)) }, self: "is not a directory", below: "is not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			dir := filepath.Join(t.TempDir(), "parent", "dir")
			must.OK(t, os.MkdirAll(dir, 0o700))
			c.make(t, dir)
			for path, want := range map[string]string{dir: c.self, filepath.Join(dir, "a", "b"): c.below} {
				for what, err := range map[string]error{"check": fsutil.CheckDir(path), "make": fsutil.MakeDir(path, 0o700), "open": openIt(path)} {
					if want == "" {
						if err != nil {
							t.Errorf("%s %s: %v", what, path, err)
						}
						continue
					}
					var untrusted *fsutil.UntrustedError
					if !errors.Is(err, fsutil.ErrUntrusted) || !errors.As(err, &untrusted) || !strings.Contains(err.Error(), dir+" ") || !strings.Contains(err.Error(), want) {
						t.Errorf("%s %s: got %v, want %q", what, path, err, want)
					}
				}
			}
		})
	}
}

// link replaces a directory by a link to another one.
func link(t *testing.T, dir string) {
	t.Helper()
	other := filepath.Join(filepath.Dir(dir), "elsewhere")
	must.OK(t, os.Mkdir(other, 0o700), os.Remove(dir), os.Symlink(other, dir))
}

func openIt(path string) error {
	if err := fsutil.MakeDir(path, 0o700); err != nil {
		return err
	}
	f, err := fsutil.OpenDir(path)
	if err == nil {
		if f.Name() != path {
			err = errors.New("its name is " + f.Name())
		}
		err = errors.Join(err, f.Close())
	}
	return err
}

func TestMakeDir(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	must.OK(t, os.Chmod(top, 0o700))
	path := filepath.Join(top, "a", "b")
	must.OK(t, fsutil.CheckDir(path))
	if _, err := fsutil.OpenDir(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	for _, mode := range []fs.FileMode{0o711, 0o700} { // an existing one keeps its mode
		must.OK(t, fsutil.MakeDir(path, mode))
	}
	for path, mode := range map[string]os.FileMode{top: 0o700, filepath.Dir(path): 0o711, path: 0o711} {
		if info := must.Get(os.Stat(path))(t); info.Mode().Perm() != mode {
			t.Errorf("%s: %v", path, info.Mode())
		}
	}
	loop := filepath.Join(top, "loop")
	must.OK(t, os.Symlink("loop", loop))
	if err := fsutil.MakeDir(filepath.Join(loop, "x"), 0o700); !errors.Is(err, unix.ELOOP) {
		t.Errorf("got %v, want ELOOP", err)
	}
}

// TestCreatePrivate: a file is made for its caller alone, and no file of others, and no
// file behind a link of theirs, is written to.
func TestCreatePrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(path, text string) error {
		f, err := fsutil.CreatePrivate(path)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	want := func(path, text string, mode fs.FileMode) {
		t.Helper()
		got, info := must.Get(os.ReadFile(path))(t), must.Get(os.Lstat(path))(t)
		if string(got) != text || info.Mode() != mode {
			t.Errorf("%s: %q, %v", path, got, info.Mode())
		}
	}
	path := filepath.Join(dir, "new")
	must.OK(t, write(path, "1"))
	want(path, "1", 0o600)
	// Of the caller's, and others may have it open.
	must.OK(t, os.Chmod(path, 0o644))
	reader := must.Get(os.Open(path))(t)
	defer fsutil.CloseRead(reader)
	must.OK(t, os.Link(path, path+".second"))
	must.OK(t, write(path, "22"))
	want(path, "22", 0o600)
	want(path+".second", "1", 0o644)
	text := make([]byte, 10)
	if n, err := reader.Read(text); n != 1 || err != nil {
		t.Errorf("who had the file open reads %q, %v", text[:n], err)
	}

	refused := func(path, reason string) {
		t.Helper()
		if err := write(path, "x"); !errors.Is(err, fsutil.ErrUntrusted) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", path, err)
		}
	}
	other := filepath.Join(dir, "other")
	must.OK(t, os.WriteFile(other, []byte("other"), 0o600), os.Symlink(other, path+".link"), unix.Mkfifo(path+".pipe", 0o600),
		os.Symlink(filepath.Join(dir, "none"), path+".dangling"), os.Symlink(dir, path+".dir"))
	refused(path+".link", "is a symbolic link")
	refused(path+".dangling", "is a symbolic link")
	refused(path+".pipe", "not a regular file")
	refused(dir, "not a regular file")
	want(other, "other", 0o600)
	must.OK(t, write(filepath.Join(path+".dir", "through"), "3")) // the caller's own link
	want(filepath.Join(dir, "through"), "3", 0o600)
	if os.Geteuid() != 0 {
		return
	}
	must.OK(t, os.Lchown(path+".dir", stranger, stranger), os.Chown(path, stranger, stranger))
	refused(filepath.Join(path+".dir", "other"), "symbolic link of user 64999")
	refused(path, "belongs to user 64999")
	want(other, "other", 0o600)
	want(path, "22", 0o600)
}

// TestAppendPrivate: a log is appended to, and no other kind of file, and none of others.
func TestAppendPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write := func(path, text string) error {
		f, err := fsutil.AppendPrivate(path)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	must.OK(t, write(path, "1"), os.Chmod(path, 0o640), write(path, "2"))
	if text, info := must.Get(os.ReadFile(path))(t), must.Get(os.Stat(path))(t); string(text) != "12" || info.Mode() != 0o640 {
		t.Errorf("%q, %v", text, info.Mode())
	}
	must.OK(t, os.Symlink("log", path+".link"), unix.Mkfifo(path+".pipe", 0o600))
	bad := []string{path + ".link", path + ".pipe", dir, "/dev/null"}
	for _, path := range bad {
		if err := write(path, "x"); !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("%s: %v", path, err)
		}
	}
	must.OK(t, os.Link(path, path+".second"))
	if err := write(path, "x"); !errors.Is(err, fsutil.ErrUntrusted) {
		t.Errorf("a file with two names: %v", err)
	}
	must.OK(t, os.Remove(path+".second"))
	if os.Geteuid() == 0 {
		must.OK(t, os.Chown(path, stranger, -1))
		if err := write(path, "x"); !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("another user's: %v", err)
		}
	}
	if text := must.Get(os.ReadFile(path))(t); string(text) != "12" {
		t.Errorf("got %q", text)
	}
}
