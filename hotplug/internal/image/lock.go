package image

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// ErrLocked reports that another process's locks exclude QEMU's. The error is a
// [*LockedError].
var ErrLocked = errors.New("the image is in use by another process")

// Access is what QEMU is going to do with an image.
type Access int

// The accesses. With either, QEMU lets no other process write, as for a disk without
// <shareable/>.
const (
	Read Access = iota
	ReadWrite
)

// Permission is one of the permissions that QEMU's block layer locks: the number of its bit
// (include/block/block-common.h, BLK_PERM_*).
type Permission int

// The permissions.
const (
	ConsistentRead Permission = 0
	Write          Permission = 1
	resize         Permission = 3
)

// String returns QEMU's name for p, as in its message "Failed to get ... lock".
func (p Permission) String() string {
	return map[Permission]string{ConsistentRead: "consistent read", Write: "write", resize: "resize"}[p]
}

// LockedError is a lock that QEMU cannot get. It wraps [ErrLocked].
type LockedError struct {
	Path       string
	Permission Permission
	// InUse is true if the other process uses Permission, and false if it does not share
	// it.
	InUse bool
	// Holders are the processes that have locks on the image, like "qemu-system-x86 (pid
	// 4711)", as far as this process can see.
	Holders []string
}

// Error implements error.
func (e *LockedError) Error() string {
	what := "does not share the permission"
	if e.InUse {
		what = "uses the permission"
	}
	who := "which cannot be seen from here"
	if len(e.Holders) > 0 {
		who = strings.Join(e.Holders, ", ")
	}
	return fmt.Sprintf("%s: %v, %s, that %s %q: end its use there first", e.Path, ErrLocked, who, what, e.Permission.String())
}

// Unwrap returns [ErrLocked].
func (e *LockedError) Unwrap() error { return ErrLocked }

// A read lock of QEMU's on the byte of a permission says that it is used, or not shared
// (block/file-posix.c). The bytes need not exist.
const (
	usedBase      = 100
	notSharedBase = 200
	locksEnd      = 300
)

// CheckLock returns a [*LockedError] if a QEMU that opens the image now would not get its
// locks, because another QEMU, qemu-img or qemu-storage-daemon has some. It queries by
// F_OFD_GETLK (fcntl(2)) and takes no lock, so the result may be outdated when QEMU opens
// the image. It does not notice programs that do not lock (cryptsetup, mount).
//
// Other errors wrap fs.ErrNotExist, fs.ErrPermission or [ErrNotImage]. A file system without
// locks is no error, as for QEMU.
func CheckLock(path string, access Access) error {
	f, _, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(f)
	needed := []Permission{ConsistentRead}
	if access == ReadWrite {
		needed = append(needed, Write)
	}
	for _, p := range needed {
		if err := checkByte(f, path, notSharedBase, p); err != nil {
			return err
		}
	}
	return checkByte(f, path, usedBase, Write)
}

// Locked reports whether a QEMU, qemu-img or qemu-storage-daemon has the image open, as far as its locks show. It takes no
// lock. The errors are those of [CheckLock].
func Locked(path string) (bool, error) {
	f, _, err := open(path, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer fsutil.CloseRead(f)
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: usedBase, Len: locksEnd - usedBase}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	switch {
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: query its locks: %w", path, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// LockForReading takes the locks of a QEMU that reads the image and lets no other process write it: a QEMU that would
// write is refused, and so is [CheckLock] with [ReadWrite]. Other readers are not. It checks nothing: call [CheckLock]
// with [Read] afterwards. release ends the locks.
//
// A storage daemon that reads a raw image without encryption shares the permission to write, so that it keeps no one away.
//
// The errors are those of [CheckLock]. A file system without locks is no error, as for QEMU.
func LockForReading(path string) (release func(), err error) {
	f, _, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	release = func() {
		// A process that is just being started has the open file too, until it executes its program: closing it would leave the
		// locks for so long.
		all := unix.Flock_t{Type: unix.F_UNLCK, Start: usedBase, Len: locksEnd - usedBase}
		_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &all) // the end of that process unlocks it too
		fsutil.CloseRead(f)
	}
	for _, at := range []int64{usedBase + int64(ConsistentRead), notSharedBase + int64(Write), notSharedBase + int64(resize)} {
		lock := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
		if err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP) {
			release()
			return nil, fmt.Errorf("%s: lock it: %w", path, err)
		}
	}
	return release, nil
}

func checkByte(f *os.File, path string, base int64, p Permission) error {
	// A write lock conflicts with any lock. The query, unlike taking the lock, works on a
	// file that is open for reading.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: base + int64(p), Len: 1}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	switch {
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP):
		return nil
	case err != nil:
		return fmt.Errorf("%s: query its locks: %w", path, err)
	case lock.Type == unix.F_UNLCK:
		return nil
	}
	return &LockedError{Path: path, Permission: p, InUse: base == usedBase, Holders: names(holdersOf(f))}
}
