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

// Options describe a file.
type Options struct {
	Size int64 // of the guest's disk in bytes: that of the image below
	// Mark names the disk, in at most [MaxMark] bytes. It is no secret.
	Mark   string
	Header *luks.EphemeralHeader // of the encrypted volume; nil for an overlay in clear
	Label  string                // SELinux label, "" for the directory's default
	Owner  *hostproc.Credential  // who alone can open the file; nil is this process's user
}

// ErrForeign reports that [Create] has not created the file for this disk.
var ErrForeign = errors.New("it is not an overlay that luksplug has made for this disk")

// selinux is the attribute that holds a file's label (selinux(8)).
const selinux = "security.selinux"

// Create creates the file at path. The error wraps [fs.ErrExist] if there is a file; after
// any other error there is none.
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
	// The mark first, in one piece: a killed run then leaves a file that can be recognised.
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

// Remove removes the file at path. A missing file is no error. A file that [Create] has not
// created with this mark stays, and the error wraps [ErrForeign].
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

// Check returns nil if [Create] has created the file at path with this mark, or was killed
// before it wrote anything; otherwise an error that wraps [ErrForeign] or that of reading.
func Check(path, mark string) error {
	f, err := fsutil.OpenRegular(nil, path)
	if errors.Is(err, fsutil.ErrNotRegular) {
		return ErrForeign
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
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
