package unlock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// watched makes a character device, and returns a function that reports whether it was
// opened since.
func watched(t *testing.T) (path string, opened func() bool) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "device")
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("only root makes devices: %v", err)
	}
	fd := must.Get(unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC))(t)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must.Get(unix.InotifyAddWatch(fd, path, unix.IN_OPEN))(t)
	return path, func() bool {
		n, err := unix.Read(fd, make([]byte, 4096))
		return err == nil && n > 0
	}
}

// TestOtherDevicesAreNotOpened: a device that the XML calls vhost-vdpa, or QEMU its master
// key, is not opened unless it is one.
func TestOtherDevicesAreNotOpened(t *testing.T) {
	t.Parallel()
	device, opened := watched(t)
	if _, err := openVDPA(device); !errors.Is(err, errNotVDPA) {
		t.Errorf("as a vhost-vdpa device: %v", err)
	}
	if _, err := readMasterKeyOf(os.Getpid(), device); !errors.Is(err, fsutil.ErrNotRegular) {
		t.Errorf("as a master key: %v", err)
	}
	if opened() {
		t.Error("the device was opened")
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	must.OK(t, unix.Mkfifo(pipe, 0o600))
	if _, err := openVDPA(pipe); !errors.Is(err, errNotVDPA) {
		t.Errorf("a pipe: %v", err)
	}
}
