package privdir

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
)

// Reserved names in the directory.
const (
	lockName = ".lock"
	newName  = ".new" // the file being written
)

// Writer is a directory that is locked against other writers in any process.
// Readers are not blocked: they find the old or the new content of each file.
type Writer struct {
	dir    *Dir
	lock   *os.File
	reopen bool // dir is not the caller's
}

// Lock waits until no other writer has the lock, or ctx ends. The error wraps ctx.Err(),
// secrets.ErrDenied if the directory is not writable, or secrets.ErrUnreachable. Call
// [Writer.Unlock] afterwards.
func (f *Dir) Lock(ctx context.Context) (*Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, err := f.openLock()
	if errors.Is(err, unix.ESTALE) {
		var again *Dir
		if again, err = Open(f.path); err == nil {
			w, err = again.openLock()
		}
		if err == nil {
			w.reopen = true
		} else if again != nil {
			again.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	// The kernel releases the lock when the process ends. The file is kept:
	// after its removal two writers could hold locks at once.
	err = fsutil.Lock(ctx, w.lock)
	switch {
	case err == nil:
		return w, nil
	case errors.Is(err, fsutil.ErrLocked):
		err = fmt.Errorf("the directory is locked by another process, on this host or on one that shares it: %w", ctx.Err())
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		err = fmt.Errorf("%w: the file system of the directory has no locks, so that two writers could destroy each other's changes: mount NFS as version 4, or run the lock services of version 3 (rpcbind, rpc.statd), or, if only this host writes, mount with local_lock=flock: %w", secrets.ErrUnreachable, err)
	default:
		err = w.dir.cannot("lock", err)
	}
	w.Unlock()
	return nil, err
}

// openLock opens the file of the lock, which it creates.
func (f *Dir) openLock() (*Writer, error) {
	lock, err := fsutil.OpenAt(f.at, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, f.cannot("lock", err)
	}
	return &Writer{dir: f, lock: lock}, nil
}

// Unlock releases the lock.
func (w *Writer) Unlock() {
	fsutil.CloseRead(w.lock)
	if w.reopen {
		w.dir.Close()
	}
}

// Write replaces the content of a file, with mode 0600. A reader finds the old or the
// new content, also after a crash; after Write has returned nil, it finds the new
// content.
func (w *Writer) Write(name string, content []byte) error {
	o := fsutil.Options{Mode: 0o600, Durable: true, Temporary: newName}
	if err := fsutil.Replace(w.dir.at, name, content, o); err != nil {
		return w.dir.cannot("write "+name, err)
	}
	return nil
}

// Remove removes a file. A missing file is not an error.
func (w *Writer) Remove(name string) error {
	if err := unix.Unlinkat(w.dir.fd(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return w.dir.cannot("remove "+name, err)
	}
	if err := fsutil.SyncDir(w.dir.at, "."); err != nil {
		return w.dir.cannot("write", err)
	}
	return nil
}

func (f *Dir) cannot(what string, err error) error {
	answer := secrets.ErrUnreachable
	if isDenied(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) {
		answer, err = secrets.ErrDenied, squashed(f.path, err)
	}
	return fmt.Errorf("%w: cannot %s in the directory: %w", answer, what, err)
}
