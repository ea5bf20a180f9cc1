package folder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
)

// The names that the folder's owner may not use for files of his own.
const (
	lockName = ".lock"
	newName  = ".new" // a file that is being written
)

const lockPoll = 10 * time.Millisecond

// Writer is a folder that is locked against other writers, of any process.
// Readers are not kept waiting: each file is there in its old or new form.
type Writer struct {
	folder *Folder
	lock   *os.File
}

// Lock waits until nobody else writes, or ctx ends. The error wraps ctx.Err(),
// secrets.ErrDenied for a folder that cannot be written to, or
// secrets.ErrUnreachable. Call [Writer.Unlock] afterwards.
func (f *Folder) Lock(ctx context.Context) (*Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lock, err := open(f.fd(), lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, cannot("lock", err)
	}
	// The lock ends with the process however the process ends. The file stays:
	// removing it would let two in at once.
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &Writer{f, lock}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			closeRead(lock)
			return nil, cannot("lock", err)
		}
		select {
		case <-ctx.Done():
			closeRead(lock)
			return nil, fmt.Errorf("the folder is locked by another process: %w", ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// Unlock lets others write.
func (w *Writer) Unlock() { closeRead(w.lock) }

// Write gives a file the content, with mode 0600. Whoever reads it meanwhile, or
// after a crash, finds the old content or the new one; when Write has returned
// nil it is the new one.
func (w *Writer) Write(name string, content []byte) error {
	// One that a writer has left who did not get to its end: we hold the lock.
	if err := unix.Unlinkat(w.folder.fd(), newName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return cannot("write "+name, err)
	}
	file, err := open(w.folder.fd(), newName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return cannot("write "+name, err)
	}
	_, err = file.Write(content)
	// The caller's umask may have taken permissions away, too.
	err = errors.Join(err, file.Chmod(0o600), file.Sync(), file.Close())
	if err == nil {
		err = unix.Renameat(w.folder.fd(), newName, w.folder.fd(), name)
	}
	if err != nil {
		_ = unix.Unlinkat(w.folder.fd(), newName, 0) // the next writer does it otherwise
		return cannot("write "+name, err)
	}
	return w.sync()
}

// Remove removes a file; one that is not there is removed already.
func (w *Writer) Remove(name string) error {
	if err := unix.Unlinkat(w.folder.fd(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return cannot("remove "+name, err)
	}
	return w.sync()
}

// sync makes what was done to names last.
func (w *Writer) sync() error {
	folder, err := open(w.folder.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return cannot("write", err)
	}
	defer closeRead(folder)
	if err := folder.Sync(); err != nil {
		return cannot("write", err)
	}
	return nil
}

func cannot(what string, err error) error {
	answer := secrets.ErrUnreachable
	if isDenied(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) {
		answer = secrets.ErrDenied
	}
	return fmt.Errorf("%w: cannot %s in the folder: %w", answer, what, err)
}
