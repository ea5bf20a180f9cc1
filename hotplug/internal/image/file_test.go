package image_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

func TestWhatIsNoImageIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, socket := filepath.Join(dir, "pipe"), filepath.Join(dir, "socket")
	must.OK(t, errors.Join(unix.Mkfifo(pipe, 0o600), unix.Mknod(socket, unix.S_IFSOCK|0o600, 0)))
	for _, path := range []string{dir, pipe, socket, "/dev/null"} {
		_, probe := image.Probe(path)
		_, guest := prefix(path, image.Raw, 1)
		for what, err := range map[string]error{
			"Probe": probe, "OpenGuest": guest, "Writable": image.Writable(path),
			"CheckLock": image.CheckLock(path, image.Read),
		} {
			if !errors.Is(err, image.ErrNotImage) {
				t.Errorf("%s of %s: %v", what, path, err)
			}
		}
	}
}

// TestDeviceIsNotOpened: a character device is refused without opening it, as opening alone
// has an effect on some (/dev/watchdog).
func TestDeviceIsNotOpened(t *testing.T) {
	t.Parallel()
	device := filepath.Join(t.TempDir(), "device")
	if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("only root makes devices: %v", err)
	}
	fd := must.Get(unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC))(t)
	defer func() { _ = unix.Close(fd) }()
	must.Get(unix.InotifyAddWatch(fd, device, unix.IN_OPEN))(t)
	opened := func() bool {
		n, err := unix.Read(fd, make([]byte, 4096))
		return err == nil && n > 0
	}
	_, probe := image.Probe(device)
	_, inspect := image.Inspect(device)
	_, guest := prefix(device, image.Raw, 1)
	for what, err := range map[string]error{"Probe": probe, "Inspect": inspect, "OpenGuest": guest, "Writable": image.Writable(device), "CheckLock": image.CheckLock(device, image.Read)} {
		if !errors.Is(err, image.ErrNotImage) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if opened() {
		t.Error("the device was opened")
	}
	must.OK(t, must.Get(os.Open(device))(t).Close())
	if !opened() {
		t.Error("the test does not notice that a device is opened")
	}
}

// TestOtherUsersLinkIsNotFollowed: an image is not reached by a link that another user can
// exchange.
func TestOtherUsersLinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, shared := must.File(t, "content"), filepath.Join(dir, "shared")
	must.OK(t, os.Mkdir(shared, 0o700), os.Symlink(path, filepath.Join(shared, "link")), os.Chmod(shared, 0o777))
	if _, err := image.Probe(filepath.Join(shared, "link")); !errors.Is(err, fsutil.ErrUnsafeLink) {
		t.Errorf("got %v", err)
	}
	must.OK(t, os.Chmod(shared, 0o755))
	must.Get(image.Probe(filepath.Join(shared, "link")))(t)
}

func TestAccess(t *testing.T) {
	t.Parallel()
	// Not t.TempDir: the other user must get there.
	dir, err := os.MkdirTemp("", "luksplug-image")
	must.OK(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	open, closed := filepath.Join(dir, "open"), filepath.Join(dir, "closed")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(open, []byte("content"), 0o600), os.Chmod(open, 0o444),
		os.WriteFile(closed, []byte("content"), 0o600), os.Chmod(closed, 0)); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		if _, err := image.Probe(open); err != nil {
			t.Error(err)
		}
		_, probe := image.Probe(closed)
		for what, err := range map[string]error{"Probe": probe, "Writable": image.Writable(open)} {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	writable := filepath.Join(dir, "writable")
	must.OK(t, os.WriteFile(writable, []byte("content"), 0o600))
	if err := image.Writable(writable); err != nil {
		t.Error(err)
	}
	if content, err := os.ReadFile(writable); err != nil || string(content) != "content" {
		t.Errorf("changed to %q, %v", content, err)
	}
	missing := filepath.Join(dir, "missing")
	if err := image.Writable(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Error("created")
	}
}

// asNobody runs f as a user without rights if the test runs as root.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Of this thread only. It is not unlocked, so that it ends with the goroutine and
		// no other goroutine runs on it.
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestSameFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b, link, hard := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "link"), filepath.Join(dir, "hard")
	must.OK(t, errors.Join(os.WriteFile(a, nil, 0o600), os.WriteFile(b, nil, 0o600), os.Symlink(a, link), os.Link(a, hard)))
	for _, same := range []string{a, link, hard, dir + "/./a"} {
		if !image.SameFile(a, same) {
			t.Errorf("%s is another file", same)
		}
	}
	for _, other := range []string{b, dir, dir + "/missing", ""} {
		if image.SameFile(a, other) || image.SameFile(other, a) {
			t.Errorf("%q is the same file", other)
		}
	}
	if image.SameFile("", "") {
		t.Error("nothing is the same as nothing")
	}
}

func TestSameBlockDeviceByAnotherNode(t *testing.T) {
	t.Parallel()
	// Nodes of a device number that no driver has: nothing is opened.
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	for path, minor := range map[string]uint32{a: 7, b: 7, c: 8} {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(240, minor))); err != nil {
			t.Skipf("device nodes cannot be made here: %v", err)
		}
	}
	if !image.SameFile(a, b) || image.SameFile(a, c) {
		t.Error("block devices are not told by their numbers")
	}
}
