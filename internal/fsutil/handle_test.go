package fsutil_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// TestFindFollowsOnlySafeLinks: a link is followed if, and only if, only root and the
// caller can exchange it.
func TestFindFollowsOnlySafeLinks(t *testing.T) {
	t.Parallel()
	base := must.Get(filepath.EvalSymlinks(t.TempDir()))(t)
	must.Write(t, filepath.Join(base, "file"), "content")
	must.OK(t, os.Mkdir(filepath.Join(base, "sub"), 0o755), os.Symlink("../file", filepath.Join(base, "sub", "up")))
	for name, c := range map[string]struct {
		mode  uint32
		owner int
		want  error
	}{
		"own":             {0o755, os.Geteuid(), nil},
		"private":         {0o700, os.Geteuid(), nil},
		"of the group":    {0o775, os.Geteuid(), fsutil.ErrUnsafeLink},
		"of all":          {0o777, os.Geteuid(), fsutil.ErrUnsafeLink},
		"of all, sticky":  {0o1777, os.Geteuid(), fsutil.ErrUnsafeLink},
		"of another user": {0o755, 64999, fsutil.ErrUnsafeLink},
	} {
		dir := filepath.Join(base, name)
		must.OK(t, os.Mkdir(dir, 0o700), os.Symlink("../file", filepath.Join(dir, "relative")), os.Symlink(base, filepath.Join(dir, "absolute")))
		must.Write(t, filepath.Join(dir, "plain"), "")
		must.OK(t, unix.Chmod(dir, c.mode))
		if err := os.Chown(dir, c.owner, -1); err != nil {
			continue // only root can
		}
		for _, path := range []string{"relative", "absolute/file", "absolute/sub/up", "../" + name + "/relative"} {
			h, err := fsutil.Find(dir + "/" + path)
			if !errors.Is(err, c.want) {
				t.Errorf("%s, %s: got %v", name, path, err)
			}
			if err == nil {
				if h.Path != filepath.Join(base, "file") || !h.Mode().IsRegular() {
					t.Errorf("%s, %s: found %s, %v", name, path, h.Path, h.Mode())
				}
				h.Close()
			}
		}
		h := must.Get(fsutil.Find(filepath.Join(dir, "plain")))(t) // no link is on the way
		h.Close()
	}
}

// TestWalkIsFind: following a path part by part finds what the kernel finds at once.
func TestWalkIsFind(t *testing.T) {
	t.Parallel()
	base := must.Get(filepath.EvalSymlinks(t.TempDir()))(t)
	must.Write(t, filepath.Join(base, "file"), "")
	must.OK(t, os.MkdirAll(filepath.Join(base, "a", "b"), 0o700), os.Symlink("loop", filepath.Join(base, "loop")), os.Symlink("a/b", filepath.Join(base, "b")))
	for path, want := range map[string]error{
		"file": nil, "a/b": nil, "a/./b/../b/": nil, "b/../b": nil, "../../../../../../../../../..": nil, "none": fs.ErrNotExist,
		"file/below": unix.ENOTDIR, "loop": unix.ELOOP, "b/none": fs.ErrNotExist,
	} {
		steps, err := fsutil.Walk(base + "/" + path)
		found, findErr := fsutil.Find(base + "/" + path)
		if !errors.Is(err, want) || !errors.Is(findErr, want) {
			t.Errorf("%s: got %v and %v, want %v", path, err, findErr, want)
			continue
		}
		if err != nil {
			continue
		}
		last := steps[len(steps)-1]
		real := must.Get(filepath.EvalSymlinks(base + "/" + path))(t)
		if last.Path != found.Path || last.Stat.Ino != found.Stat.Ino || last.Path != real || steps[0].Path != "/" {
			t.Errorf("%s: %s, %s, %s", path, last.Path, found.Path, real)
		}
		for _, h := range append(steps, found) {
			h.Close()
		}
	}
}

// TestFoundIsOpened: what is opened is the file that was found and checked, even if another
// one has its path since.
func TestFoundIsOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must.Write(t, path, "checked")
	h := must.Get(fsutil.Find(path))(t)
	defer h.Close()
	must.Write(t, filepath.Join(dir, "other"), "exchanged")
	must.OK(t, os.Rename(filepath.Join(dir, "other"), path))
	f := must.Get(h.Open(unix.O_RDONLY))(t)
	defer func() { _ = f.Close() }()
	b := make([]byte, 20)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "checked" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// opens returns a function that reports whether the file was opened since it was called last:
// opening with O_PATH does not count.
func opens(t *testing.T, path string) func() bool {
	t.Helper()
	fd := must.Get(unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC))(t)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must.Get(unix.InotifyAddWatch(fd, path, unix.IN_OPEN))(t)
	return func() bool {
		b := make([]byte, 4096)
		n, err := unix.Read(fd, b)
		return err == nil && n > 0
	}
}

// TestOnlyRegularFilesAreOpened: any other file is refused unopened, because opening alone
// blocks, or changes a device. Reads are bounded.
func TestOnlyRegularFilesAreOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must.Write(t, at("file"), "12345678")
	must.OK(t, unix.Mkfifo(at("pipe"), 0o600), unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0), os.Symlink("/dev/zero", at("zero")), os.Symlink("file", at("link")))
	if unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) == nil { // as /dev/zero
		opened := opens(t, at("device"))
		if _, err := fsutil.ReadFile(nil, at("device"), 10); !errors.Is(err, fsutil.ErrNotRegular) || opened() {
			t.Errorf("the device: %v", err)
		}
		if _, err := fsutil.ReadLinked(at("device"), 10); !errors.Is(err, fsutil.ErrNotRegular) || opened() {
			t.Errorf("the device: %v", err)
		}
		f := must.Get(os.Open(at("device")))(t)
		must.OK(t, f.Close())
		if !opened() {
			t.Error("the test does not notice that a device is opened")
		}
	}
	for _, name := range []string{"pipe", "socket", "zero", "link"} {
		if _, err := fsutil.ReadFile(nil, at(name), 10); !errors.Is(err, fsutil.ErrNotRegular) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]error{"pipe": fsutil.ErrNotRegular, "zero": fsutil.ErrNotRegular, "link": nil, "file": nil} {
		if _, err := fsutil.ReadLinked(at(name), 8); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := fsutil.ReadLinked(at("file"), 7); !errors.Is(err, fsutil.ErrTooLarge) {
		t.Errorf("a file over the bound: %v", err)
	}
}
