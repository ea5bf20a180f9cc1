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
	dir  *Dir
	lock *os.File
}

// Lock waits until no other writer has the lock, or ctx ends. The error wraps ctx.Err(),
// secrets.ErrDenied if the directory is not writable, or secrets.ErrUnreachable. Call
// [Writer.Unlock] afterwards.
func (f *Dir) Lock(ctx context.Context) (*Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lock, err := fsutil.OpenAt(f.at, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, cannot("lock", err)
	}
	// The kernel releases the lock when the process ends. The file is kept:
	// after its removal two writers could hold locks at once.
	err = fsutil.Lock(ctx, lock)
	switch {
	case err == nil:
		return &Writer{f, lock}, nil
	case errors.Is(err, fsutil.ErrLocked):
		err = fmt.Errorf("the directory is locked by another process: %w", ctx.Err())
	default:
		err = cannot("lock", err)
	}
	fsutil.CloseRead(lock)
	return nil, err
}

// Unlock releases the lock.
func (w *Writer) Unlock() { fsutil.CloseRead(w.lock) }

// Write replaces the content of a file, with mode 0600. A reader finds the old or the
// new content, also after a crash; after Write has returned nil, it finds the new
// content.
func (w *Writer) Write(name string, content []byte) error {
	o := fsutil.Options{Mode: 0o600, Durable: true, Temporary: newName}
	if err := fsutil.Replace(w.dir.at, name, content, o); err != nil {
		return cannot("write "+name, err)
	}
	return nil
}

// Remove removes a file. A missing file is not an error.
func (w *Writer) Remove(name string) error {
	if err := unix.Unlinkat(w.dir.fd(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return cannot("remove "+name, err)
	}
	if err := fsutil.SyncDir(w.dir.at, "."); err != nil {
		return cannot("write", err)
	}
	return nil
}

func cannot(what string, err error) error {
	answer := secrets.ErrUnreachable
	if isDenied(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) {
		answer = secrets.ErrDenied
	}
	return fmt.Errorf("%w: cannot %s in the directory: %w", answer, what, err)
}
