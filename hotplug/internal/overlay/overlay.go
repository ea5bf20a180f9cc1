package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Options say what a file is like.
type Options struct {
	// Size is how much the guest sees, in bytes: that of the image below.
	Size int64
	// Mark says whose the file is. [Remove] wants the same. It is no secret, and
	// has at most [MaxMark] bytes.
	Mark string
	// Header is that of the volume that the overlay is encrypted with; nil for an
	// overlay in the clear.
	Header *luks.EphemeralHeader
	// Label is the file's security label (SELinux), "" for the one that files there
	// have.
	Label string
	// Owner is who opens the file, and the only one who can; nil for this
	// process's user.
	Owner *hostproc.Credential
}

// ErrForeign: the file is not the one that is meant.
var ErrForeign = errors.New("it is not an overlay that luksplug has made for this disk")

// selinux is the attribute that holds a file's label (selinux(8)).
const selinux = "security.selinux"

// Create makes the file at path, where none may be: the error wraps
// [fs.ErrExist] then. After any other error there is none.
func Create(path string, o Options) (err error) {
	l, err := layOut(o)
	if err != nil {
		return fmt.Errorf("make the overlay %s: %w", path, err)
	}
	f, err := fsutil.OpenAt(nil, path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the overlay: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("make the overlay: %w", err), os.Remove(path))
		}
	}()
	// The mark first, in one piece: whoever is killed behind it leaves a file that
	// is known again.
	if _, err := f.WriteAt(l.header(o), 0); err != nil {
		return err
	}
	if err := l.writeTables(f); err != nil {
		return err
	}
	if o.Header != nil {
		err := o.Header.Use(func(header []byte) error {
			_, err := f.WriteAt(header, l.crypto*clusterSize)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := f.Truncate(l.clusters * clusterSize); err != nil {
		return err
	}
	if o.Label != "" {
		if err := unix.Fsetxattr(int(f.Fd()), selinux, append([]byte(o.Label), 0), 0); err != nil {
			return fmt.Errorf("label %s: %w", o.Label, err)
		}
	}
	if o.Owner == nil || int(o.Owner.UID) == os.Geteuid() {
		return nil
	}
	return f.Chown(int(o.Owner.UID), int(o.Owner.GID))
}

// Remove removes the file at path. No file is no error. One that [Create] has not
// made with this mark is left alone, and the error wraps [ErrForeign]; an empty
// one is that of a Create which was killed at once.
func Remove(path, mark string) error {
	err := Check(path, mark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the overlay %s: %w", path, err)
	}
	return nil
}

// Check tells whether the file at path is one that [Create] has made with this
// mark: nil, or an error that wraps [ErrForeign], or that of looking.
func Check(path, mark string) error {
	f, err := fsutil.OpenRegular(nil, path)
	if errors.Is(err, fsutil.ErrNotRegular) {
		return ErrForeign
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	b := make([]byte, headerBytes)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n > 0 && !bytes.Contains(b[:n], markOf(mark)) {
		return ErrForeign
	}
	return nil
}
