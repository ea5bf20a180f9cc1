package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Location is where a volume and its header are.
type Location struct {
	// Path is that of the image, Header that of a header in a file of its own, "" for one in the image.
	Path, Header string
}

// file returns the path of the file that the header is in.
func (l Location) file() string { return cmp.Or(l.Header, l.Path) }

// same reports whether both have the same header.
func (l Location) same(other Location) bool {
	return l == other || image.SameFile(l.file(), other.file())
}

// ErrBusy reports that another program is changing the header of a volume.
var ErrBusy = errors.New("another program is changing the header")

// held is a header that no other program changes meanwhile.
type held struct {
	Location
	luks.Storage
	close func() // unlocks it
}

// hold opens the header of a volume for changes and locks it, as cryptsetup does for LUKS2: a file by flock(2) on itself, a
// block device by flock(2) on its file in /run/cryptsetup. Neither disturbs the locks of a QEMU that has the image open,
// which are those of fcntl(2).
func hold(ctx context.Context, l Location) (*held, error) { return complete().hold(ctx, l) }

func (r reading) hold(ctx context.Context, l Location) (*held, error) {
	f, release, err := openLocked(ctx, l.file())
	if err != nil {
		return nil, err
	}
	p, err := r.locate(l.Path, l.Header, 0)
	if err != nil {
		release()
		return nil, err
	}
	return &held{l, part{durable{f}, p.offset, p.length}, release}, nil
}

// openLocked opens a file or block device for changes, and locks it. release unlocks and closes it: what is written is synced
// before.
func openLocked(ctx context.Context, path string) (f *os.File, release func(), err error) {
	if err := image.Writable(path); err != nil {
		return nil, nil, err
	}
	handle, err := fsutil.Find(path)
	if err != nil {
		return nil, nil, err
	}
	defer handle.Close()
	if mode := handle.Mode(); !mode.IsRegular() && mode&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		return nil, nil, fmt.Errorf("%s: %w", path, image.ErrNotImage)
	}
	f, err = handle.Open(os.O_RDWR)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s to change its header: %w", path, err)
	}
	waiting, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	unlock, err := lock(waiting, f, handle)
	if errors.Is(err, fsutil.ErrLocked) && ctx.Err() == nil {
		err = fmt.Errorf("%w of %s: try again when it has ended", ErrBusy, path)
	}
	if err != nil {
		fsutil.CloseRead(f)
		return nil, nil, err
	}
	return f, func() {
		unlock()
		fsutil.CloseRead(f)
	}, nil
}

// lockWait bounds the wait for another program that changes a header.
const lockWait = 30 * time.Second

// cryptsetupLocks has the lock files of block devices (cryptsetup: lib/utils_device_locking.c).
const cryptsetupLocks = "/run/cryptsetup"

// lock locks an open file or block device, and returns what unlocks it.
func lock(ctx context.Context, f *os.File, handle *fsutil.Handle) (func(), error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "query the file system of", Path: handle.Path, Err: err}
	}
	switch {
	case !handle.Mode().IsRegular():
		device := handle.Stat.Rdev
		return lockFile(ctx, fmt.Sprintf("L_%d:%d", unix.Major(device), unix.Minor(device)))
	case st.Type == unix.NFS_SUPER_MAGIC:
		// NFS makes a lock of fcntl(2) on all bytes of it, which would collide with QEMU's.
		return lockFile(ctx, fmt.Sprintf("luksplug_%d:%d", handle.Stat.Dev, handle.Stat.Ino))
	}
	return func() {}, fsutil.Lock(ctx, f) // it ends when f is closed
}

// lockFile locks a file of cryptsetup's, which is removed when it is unlocked.
func lockFile(ctx context.Context, name string) (func(), error) {
	if err := fsutil.MakeDir(cryptsetupLocks, 0o700); err != nil {
		return nil, err
	}
	dir, err := fsutil.OpenDir(cryptsetupLocks)
	if err != nil {
		return nil, err
	}
	for {
		f, err := fsutil.OpenAt(dir, name, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = fsutil.Lock(ctx, f)
		}
		if err != nil {
			fsutil.CloseRead(dir)
			if f != nil {
				fsutil.CloseRead(f)
			}
			return nil, err
		}
		// Its last holder may have removed it since it was opened.
		mine, err := f.Stat()
		named, errNamed := os.Stat(cryptsetupLocks + "/" + name)
		if err == nil && errNamed == nil && os.SameFile(mine, named) {
			return func() {
				_ = unix.Unlinkat(int(dir.Fd()), name, 0) // as cryptsetup: another holder makes it again
				fsutil.CloseRead(f)
				fsutil.CloseRead(dir)
			}, nil
		}
		fsutil.CloseRead(f)
	}
}
