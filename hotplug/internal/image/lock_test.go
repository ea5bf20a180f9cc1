package image_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

func TestLocksOfQEMU(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		driver          string
		writable        bool
		read, readWrite bool // whether QEMU could get the locks
	}{
		{"qcow2", true, false, false},
		{"qcow2", false, true, false},
		{"raw", true, false, false},
		{"raw", false, true, true}, // an NBD export of raw shares everything
	} {
		name := test.driver + " read-only"
		if test.writable {
			name = test.driver + " writable"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := create(t, test.driver, "1M")
			for _, access := range []image.Access{image.Read, image.ReadWrite} {
				if err := image.CheckLock(path, access); err != nil {
					t.Errorf("before: %v", err)
				}
			}
			wantLocked(t, path, false)
			hold(t, path, test.driver, test.writable)
			wantLocked(t, path, true)
			checkFree(t, path, image.Read, test.read)
			checkFree(t, path, image.ReadWrite, test.readWrite)
			sameAsQEMUOpens(t, path, test.driver)
		})
	}
}

func checkFree(t *testing.T, path string, access image.Access, free bool) {
	t.Helper()
	err := image.CheckLock(path, access)
	if free {
		if err != nil {
			t.Errorf("access %d: %v", access, err)
		}
		return
	}
	var locked *image.LockedError
	if !errors.Is(err, image.ErrLocked) || !errors.As(err, &locked) || locked.Path != path || locked.Permission != image.Write {
		t.Fatalf("access %d: %v", access, err)
	}
	if len(locked.Holders) != 1 || !strings.HasPrefix(locked.Holders[0], "qemu-storage-da (pid ") {
		t.Errorf("held by %q", locked.Holders)
	}
}

// sameAsQEMUOpens compares the result with that of a second QEMU program.
func sameAsQEMUOpens(t *testing.T, path, driver string) {
	t.Helper()
	need(t, "qemu-io")
	for access, flags := range map[image.Access][]string{image.Read: {"-r"}, image.ReadWrite: nil} {
		args := append([]string{"-f", driver}, flags...)
		out, err := exec.Command("qemu-io", append(args, "-c", "read 0 512", path)...).CombinedOutput()
		ours := image.CheckLock(path, access)
		if err != nil && !strings.Contains(string(out), "lock") {
			t.Fatalf("qemu-io: %s", out)
		}
		// CheckLock must never report "free" if QEMU reports "locked". The reverse may
		// happen: a disk needs more permissions than qemu-io does.
		if err != nil && ours == nil {
			t.Errorf("access %d: QEMU could not open it: %s", access, out)
		}
	}
}

// wantLocked checks whether a program of QEMU's has the image open, and that one search finds which.
func wantLocked(t *testing.T, path string, want bool) {
	t.Helper()
	if locked := must.Get(image.Locked(path))(t); locked != want {
		t.Errorf("%s is locked: %v", path, locked)
	}
	holders := image.ReadHolders().Of(path)
	if len(holders) > 0 != want || want && (!strings.HasPrefix(holders[0].String(), "qemu-") || holders[0].PID == os.Getpid()) {
		t.Errorf("%s is held by %v", path, holders)
	}
}

// TestLocksOfDisks compares CheckLock with a disk of a second virtual machine, for which
// it must be exact.
func TestLocksOfDisks(t *testing.T) {
	t.Parallel()
	need(t, "qemu-system-x86_64")
	for _, driver := range []string{"raw", "qcow2"} {
		for _, held := range []image.Access{image.Read, image.ReadWrite} {
			t.Run(fmt.Sprintf("%s %d", driver, held), func(t *testing.T) {
				t.Parallel()
				path := create(t, driver, "1M")
				if out, ok := plug(t, path, driver, held); !ok {
					t.Fatal(out)
				}
				for _, access := range []image.Access{image.Read, image.ReadWrite} {
					ours := image.CheckLock(path, access)
					out, ok := plug(t, path, driver, access)
					if ok != (ours == nil) {
						t.Errorf("held for %d, access %d: QEMU %v %q, we %v", held, access, ok, out, ours)
					}
				}
			})
		}
	}
}

// plug starts a virtual machine, which never runs, with the image as a disk. It holds the
// image until the test ends, if QEMU gets the locks.
func plug(t *testing.T, path, driver string, access image.Access) (complaint string, ok bool) {
	t.Helper()
	return start(t, "qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-m", "64",
		"-blockdev", blockdev(t, path, driver, access == image.ReadWrite), "-device", "virtio-blk-pci,drive=n", "-qmp", "stdio")
}

func TestOtherLocksDoNotCount(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	must.OK(t, err)
	defer func() { _ = f.Close() }()
	for _, off := range []int64{0, 99, 101 + 1, 104, 199, 202, 203, 204} { // write unchanged, resize, and none of QEMU's
		lock := unix.Flock_t{Type: unix.F_RDLCK, Start: off, Len: 1}
		must.OK(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
	}
	if err := image.CheckLock(path, image.ReadWrite); err != nil {
		t.Error(err)
	}
	// Each of the three bytes that count, one at a time.
	for _, test := range []struct {
		off             int64
		permission      image.Permission
		inUse           bool
		read, readWrite bool
	}{
		{101, image.Write, true, false, false},
		{200, image.ConsistentRead, false, false, false},
		{201, image.Write, false, true, false},
	} {
		lock := unix.Flock_t{Type: unix.F_RDLCK, Start: test.off, Len: 1}
		must.OK(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
		for access, free := range map[image.Access]bool{image.Read: test.read, image.ReadWrite: test.readWrite} {
			err := image.CheckLock(path, access)
			var locked *image.LockedError
			if free != (err == nil) || !free && (!errors.As(err, &locked) || locked.Permission != test.permission || locked.InUse != test.inUse) {
				t.Errorf("byte %d, access %d: %v", test.off, access, err)
			}
		}
		lock.Type = unix.F_UNLCK
		must.OK(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
	}
}

// TestLockForReading: a QEMU can read the image and not write it, as long as the lock is held.
func TestLockForReading(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io")
	path := create(t, "raw", "1M")
	opens := func(access string) error {
		out, err := exec.Command("qemu-io", "-f", "raw", access, "-c", "read 0 512", path).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "Failed to get \"write\" lock") {
			t.Errorf("qemu-io: %s", out)
		}
		return err
	}
	first, second := must.Get(image.LockForReading(path))(t), must.Get(image.LockForReading(path))(t)
	if err := image.CheckLock(path, image.ReadWrite); !errors.Is(err, image.ErrLocked) || opens("-n") == nil {
		t.Errorf("a writer: %v", err)
	}
	if err := errors.Join(image.CheckLock(path, image.Read), opens("-r")); err != nil {
		t.Errorf("a reader: %v", err)
	}
	first()
	if image.CheckLock(path, image.ReadWrite) == nil {
		t.Error("the second lock went with the first one")
	}
	second()
	if err := errors.Join(image.CheckLock(path, image.ReadWrite), opens("-n")); err != nil {
		t.Errorf("a writer afterwards: %v", err)
	}
	if _, err := image.LockForReading(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
}
