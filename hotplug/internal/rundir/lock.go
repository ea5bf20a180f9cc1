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
}

const lockPoll = 50 * time.Millisecond

// LockPath returns the lock file of the VM with this identity, and creates its directory.
// dir is LockDir of the options; "" is /run/lock/luksplug for root, and a directory of
// the user's own otherwise.
func LockPath(dir, id string) (string, error) {
	if dir == "" {
		dir = "/run/lock/luksplug"
		if os.Geteuid() != 0 {
			var err error
			if dir, err = userDir(); err != nil {
				return "", err
			}
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("directory for lock files: %w", err)
	}
	return filepath.Join(dir, id+".lock"), nil
}

// TakeLock takes the lock of that file. It waits for another run until ctx ends, which is
// an [*outcome.LockedError], and calls waiting once when it begins to wait.
func TakeLock(ctx context.Context, path string, waiting func(holder int)) (*Lock, error) {
	for told := false; ; {
		l, err := TryLock(path)
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
func TryLock(path string) (*Lock, error) {
	f, err := fsutil.OpenAt(nil, path, unix.O_RDWR|unix.O_CREAT, 0o600)
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
	return &Lock{file: f}, nil
}

// Release releases the lock and removes its file.
func (l *Lock) Release() {
	_ = os.Remove(l.file.Name()) // before the unlock, after which the file may be another run's
	_ = l.file.Close()
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
