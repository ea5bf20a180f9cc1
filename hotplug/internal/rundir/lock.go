package rundir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// Lock excludes other runs of luksplug from one VM for the time of an operation. It is a
// flock(2) on a file, so that it ends with the process, even if that is killed.
type Lock struct {
	file *os.File
	// earlier is the lock that earlier versions take, nil for none.
	earlier *os.File
}

const lockPoll = 50 * time.Millisecond

// earlierLocks is root's lock directory of earlier versions. Every user can create files in
// its parent. Its locks are taken as well, so that a run that began before an update is
// excluded, but only if the directory is root's alone.
const earlierLocks = "/run/lock/luksplug"

// LockFile is the lock file of a VM.
type LockFile struct {
	Path string
	// Earlier is the lock file that a run of an earlier version takes, "" for none.
	Earlier string
}

// LockFileOf returns the lock file of the VM with this identity, and creates its
// directory. dir is LockDir of the options; "" is /run/luksplug/lock for root, and a
// directory of the user's own otherwise. The error wraps [fsutil.ErrUntrusted] for a
// directory that others can change, in which they could hold every VM's lock.
func LockFileOf(dir, id string) (LockFile, error) {
	earlier := ""
	if dir == "" {
		var err error
		if dir, err = topDir(); err != nil {
			return LockFile{}, err
		}
		if os.Geteuid() == 0 {
			dir, earlier = filepath.Join(dir, "lock"), filepath.Join(earlierLocks, id+lockSuffix)
		}
	}
	if err := fsutil.MakeDir(dir, 0o700); err != nil {
		return LockFile{}, fmt.Errorf("directory for lock files: %w", err)
	}
	return LockFile{filepath.Join(dir, id+lockSuffix), earlier}, nil
}

const lockSuffix = ".lock"

// TakeLock takes the lock of that file. It waits for another run until ctx ends, which is
// an [*outcome.LockedError], and calls waiting once when it begins to wait.
func TakeLock(ctx context.Context, lock LockFile, waiting func(holder int)) (*Lock, error) {
	for told := false; ; {
		l, path, err := lock.try()
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, fsutil.ErrLocked) {
			return nil, fmt.Errorf("lock the VM: %w", err)
		}
		if !told {
			told = true
			waiting(holder(path))
		}
		select {
		case <-ctx.Done():
			return nil, &outcome.LockedError{Path: path, Holder: holder(path), Err: ctx.Err()}
		case <-time.After(lockPoll):
		}
	}
}

// TryLock takes the lock if it is free; otherwise the error wraps [fsutil.ErrLocked].
func TryLock(lock LockFile) (*Lock, error) {
	l, _, err := lock.try()
	return l, err
}

// try is [TryLock] that also returns the file that it could not lock.
func (l LockFile) try() (*Lock, string, error) {
	f, err := tryFile(l.Path)
	if err != nil {
		return nil, l.Path, err
	}
	out := &Lock{file: f}
	if l.Earlier == "" || !trusted(filepath.Dir(l.Earlier)) {
		return out, "", nil
	}
	if out.earlier, err = tryFile(l.Earlier); errors.Is(err, fsutil.ErrLocked) {
		out.Release()
		return nil, l.Earlier, err
	}
	return out, "", nil // a directory that cannot be written to has no locks
}

// trusted reports whether a directory exists that no other user can change.
func trusted(dir string) bool {
	f, err := fsutil.OpenDir(dir)
	if err != nil {
		return false
	}
	fsutil.CloseRead(f)
	return true
}

// tryFile locks the file at path, which it creates.
func tryFile(path string) (*os.File, error) {
	f, err := fsutil.OpenAt(nil, path, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := fsutil.TryLock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	// The previous holder may have removed the file between our open and our flock: then
	// this is the lock of a file that no other run will open.
	mine, err1 := f.Stat()
	now, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, now) {
		_ = f.Close()
		return nil, fsutil.ErrLocked
	}
	// For the messages of waiting runs; the lock itself does not need it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	}
	return f, nil
}

// Release releases the lock and removes its file.
func (l *Lock) Release() {
	for _, f := range []*os.File{l.earlier, l.file} {
		if f != nil {
			_ = os.Remove(f.Name()) // before the unlock, after which the file may be another run's
			_ = f.Close()
		}
	}
}

// holder returns the process id of a lock's holder, 0 if it is unknown.
func holder(path string) int {
	b, err := fsutil.ReadFile(nil, path, maxNote)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}
