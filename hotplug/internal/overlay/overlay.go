package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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
	dir, err := directory(path)
	if err != nil {
		return fmt.Errorf("make the overlay: %w", err)
	}
	defer fsutil.CloseRead(dir)
	name := filepath.Base(path)
	f, err := fsutil.OpenAt(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the overlay: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("make the overlay: %w", err), unix.Unlinkat(int(dir.Fd()), name, 0))
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
	dir, err := directory(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the overlay: %w", err)
	}
	defer fsutil.CloseRead(dir)
	name := filepath.Base(path)
	if err = checkAt(dir, name, mark); err == nil {
		err = unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the overlay %s: %w", path, err)
	}
	return nil
}

// Check returns nil if [Create] has created the file at path with this mark, or was killed
// before it wrote anything; otherwise an error that wraps [ErrForeign] or that of reading.
func Check(path, mark string) error {
	dir, err := directory(path)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(dir)
	return checkAt(dir, filepath.Base(path), mark)
}

// directory opens the directory of a path. It follows links where [fsutil.Find] does: the
// directory is that of the image, and may be another user's.
func directory(path string) (*os.File, error) {
	found, err := fsutil.Find(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer found.Close()
	return found.Open(unix.O_PATH | unix.O_DIRECTORY)
}

func checkAt(dir *os.File, name, mark string) error {
	f, err := fsutil.OpenRegular(dir, name)
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
