// Package fsutil has file operations that must be complete and on the right file: replacing a file's content
// atomically ([Replace]), locking ([Lock]), opening a file without following a symbolic link ([OpenAt],
// [OpenRegular]), finding one without opening it ([Find]), reading one within a bound ([ReadFile]), and using a
// directory that no other user can change ([OpenDir], [MakeDir]).
//
// Names are relative to an open directory, so that no directory can be exchanged between two calls; a nil
// directory is the working directory, and is ignored for an absolute name. Errors wrap those of the system
// calls (errors.Is with those of packages io/fs and unix). Everything may be called concurrently.
package fsutil

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func at(dir *os.File) int {
	if dir == nil {
		return unix.AT_FDCWD
	}
	return int(dir.Fd())
}

// OpenAt opens a file like openat(2) with O_NOFOLLOW and O_CLOEXEC: the error
// wraps ELOOP if name is a symbolic link.
func OpenAt(dir *os.File, name string, flags int, mode fs.FileMode) (*os.File, error) {
	return openAs(dir, name, name, flags, mode)
}

// openAs is [OpenAt] of a file that is called path in errors.
func openAs(dir *os.File, name, path string, flags int, mode fs.FileMode) (*os.File, error) {
	fd, err := openAt(dir, name, path, flags, mode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openAt(dir *os.File, name, path string, flags int, mode fs.FileMode) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(at(dir), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// ErrNotRegular reports that a file is not a regular file.
var ErrNotRegular = errors.New("it is not a regular file")

// OpenRegular opens a regular file for reading, without following a link. The error wraps
// [ErrNotRegular] for any other kind of file, which is not opened: opening alone can block,
// or change a device.
func OpenRegular(dir *os.File, name string) (*os.File, error) {
	fd, err := openAt(dir, name, name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	return OpenFound(fd, name)
}

// OpenFound is [OpenRegular] for the file of an O_PATH descriptor, which it closes.
func OpenFound(fd int, name string) (*os.File, error) {
	h, err := newHandle(fd, name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer h.Close()
	if !h.Mode().IsRegular() {
		err := ErrNotRegular
		if h.Mode()&fs.ModeSymlink != 0 {
			err = fmt.Errorf("%w: %w", ErrNotRegular, unix.ELOOP)
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return h.Open(unix.O_RDONLY)
}

// CloseRead closes a file that was only read: an error loses no data.
func CloseRead(c io.Closer) { _ = c.Close() }

// Options say how [Replace] writes a file.
type Options struct {
	// Mode is the file's permissions, regardless of the umask.
	Mode fs.FileMode
	// Owner owns the file; nil is this process's user.
	Owner *Owner
	// Durable has the file and its directory written to the disk before Replace
	// returns, so that the new content survives a loss of power.
	Durable bool
	// Temporary is the name under which the file is written, in the same file system; "" for name with ".new"
	// appended. One that an interrupted Replace left is removed. Callers that may replace a file at the same
	// time need a lock, or names that differ.
	Temporary string
}

// Owner is the user and group of a file.
type Owner struct{ UID, GID int }

// Replace gives the file name in the directory dir new content. A reader of the file, meanwhile or after a
// crash, finds the old content or the new content, never a part. A symbolic link is replaced, not followed.
// After an error the old file is as it was, unless only making it durable failed.
func Replace(dir *os.File, name string, content []byte, o Options) error {
	if o.Temporary == "" {
		o.Temporary = name + ".new"
	}
	if err := unix.Unlinkat(at(dir), o.Temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: o.Temporary, Err: err}
	}
	f, err := OpenAt(dir, o.Temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(fill(f, content, o), f.Close())
	if err == nil {
		if err = unix.Renameat(at(dir), o.Temporary, at(dir), name); err != nil {
			err = &os.LinkError{Op: "rename", Old: o.Temporary, New: name, Err: err}
		}
	}
	if err != nil {
		_ = unix.Unlinkat(at(dir), o.Temporary, 0) // the next Replace removes it otherwise
		return err
	}
	if !o.Durable {
		return nil
	}
	return SyncDir(dir, filepath.Dir(name))
}

func fill(f *os.File, content []byte, o Options) error {
	_, err := f.Write(content)
	if err == nil && o.Owner != nil {
		err = f.Chown(o.Owner.UID, o.Owner.GID)
	}
	if err == nil {
		err = f.Chmod(o.Mode)
	}
	if err == nil && o.Durable {
		err = f.Sync()
	}
	return err
}

// RenameNew gives a file another name, which must be free: the error wraps fs.ErrExist if it is not.
func RenameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // as on NFS
		return linkNew(from, to)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// linkNew is [RenameNew] in two steps, for file systems whose rename replaces a file: the file has both names in between.
func linkNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// SyncDir writes the entries of a directory to the disk.
func SyncDir(dir *os.File, name string) error {
	f, err := OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ErrLocked reports that another process, or another open file of this one, has the lock.
var ErrLocked = errors.New("it is locked by another process")

// The time between two attempts at a lock grows from lockPoll to maxLockPoll: over a network each is a request.
const lockPoll, maxLockPoll = 5 * time.Millisecond, 40 * time.Millisecond

// TryLock locks an open file or directory against every other TryLock and Lock (flock(2), exclusive). The
// lock ends when f is closed, also by the end of the process. The error wraps [ErrLocked] if it is not free.
func TryLock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return &fs.PathError{Op: "lock", Path: f.Name(), Err: ErrLocked}
		case err != nil:
			return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		return nil
	}
}

// Lock is [TryLock] that waits until the lock is free, or ctx ends: the error then
// wraps [ErrLocked] and ctx's error.
func Lock(ctx context.Context, f *os.File) error {
	for wait := lockPoll; ; wait = min(2*wait, maxLockPoll) {
		err := TryLock(f)
		if !errors.Is(err, ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// InMemory reports whether a file or directory is on a file system in memory, whose files
// a reboot takes.
func InMemory(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && inMemory(st)
}

// FileInMemory is [InMemory] for an open file or directory.
func FileInMemory(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && inMemory(st)
}

func inMemory(st unix.Statfs_t) bool {
	return uint32(st.Type) == unix.TMPFS_MAGIC || uint32(st.Type) == unix.RAMFS_MAGIC
}
