package privdir

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// MaxName is the longest file name, in bytes, that Linux file systems support.
const MaxName = unix.NAME_MAX

// Dir is an open directory with checked permissions. It is safe for concurrent
// use.
type Dir struct {
	at   *os.File
	path string
}

// Open opens and checks the directory path. The error wraps secrets.ErrUnreachable
// if path does not exist or is not a directory, and secrets.ErrDenied if the caller
// may not search the directory or its permissions are unsafe.
func Open(path string) (*Dir, error) {
	// O_PATH, because a caller without permission to list the directory may
	// still have a secret in it.
	at, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_PATH, 0)
	switch {
	case isDenied(err):
		return nil, fmt.Errorf("%w: the directory cannot be opened: %w", secrets.ErrDenied, squashed(path, err))
	case err != nil:
		return nil, fmt.Errorf("%w: the directory cannot be opened: %w", secrets.ErrUnreachable, err)
	}
	f := &Dir{at, path}
	if onNFS(path) {
		askServer(path)
	}
	if err := f.check(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Make is like [Open], but first creates the directory and its parents, with mode
// 0700, if they are missing.
func Make(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		answer := secrets.ErrUnreachable
		if isDenied(err) {
			answer, err = secrets.ErrDenied, squashed(path, err)
		}
		return nil, fmt.Errorf("%w: the directory cannot be created: %w", answer, err)
	}
	return Open(path)
}

// Close closes the directory. Files opened through it remain open.
func (f *Dir) Close() { fsutil.CloseRead(f.at) }

// InMemory reports whether the directory is on a tmpfs or ramfs, so that its
// content is lost at a reboot.
func (f *Dir) InMemory() bool { return fsutil.FileInMemory(f.at) }

// Keep returns nil if the directory may hold a secret with the document. The error wraps
// secrets.ErrPersistent for an ephemeral secret, unless the directory is in memory.
func (f *Dir) Keep(d secrets.Document) error {
	if d.Ephemeral && !f.InMemory() {
		return fmt.Errorf("%w: use a directory on a tmpfs", secrets.ErrPersistent)
	}
	return nil
}

func (f *Dir) fd() int { return int(f.at.Fd()) }

func (f *Dir) check() error {
	st, err := stat(f.at)
	if err != nil {
		return err
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%w: others may write to the directory (mode %04o): chmod go-w it", secrets.ErrDenied, st.Mode&0o7777)
	}
	return checkOwner("the directory", st.Uid, f.path)
}

// Read returns the content of a file. Errors are those of [Dir.Open].
func (f *Dir) Read(name string) (*secrets.Secret, error) {
	return fresh(f, func(f *Dir) (*secrets.Secret, error) { return f.read(name) })
}

func (f *Dir) read(name string) (*secrets.Secret, error) {
	file, err := f.openFile(name)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(file)
	content, err := secrets.Read(file)
	if err != nil {
		return nil, fmt.Errorf("%w: file %s: %w", secrets.ErrUnreachable, name, err)
	}
	return content, nil
}

// DocumentSuffix follows the uuid in the name of a document's file.
const DocumentSuffix = ".xml"

// Document reads the document of a secret. Errors are those of [Dir.Open], or wrap secrets.ErrDamaged.
func (f *Dir) Document(id uuid.UUID) (d secrets.Document, err error) {
	name := id.String() + DocumentSuffix
	text, err := f.Read(name)
	if err != nil {
		return d, err
	}
	defer text.Wipe()
	err = text.Use(func(b []byte) error { d, err = storecall.ParseDocument(b, id, "file "+name); return err })
	return d, err
}

// Open opens a file for reading, and checks it. The error wraps
// secrets.ErrNotFound if it does not exist, secrets.ErrDenied if it may not be read
// or its permissions are unsafe, and secrets.ErrUnreachable otherwise.
func (f *Dir) Open(name string) (*os.File, error) {
	return fresh(f, func(f *Dir) (*os.File, error) { return f.openFile(name) })
}

func (f *Dir) openFile(name string) (*os.File, error) {
	file, err := fsutil.OpenRegular(f.at, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("%w: there is no file %s", secrets.ErrNotFound, name)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: file %s is a symbolic link: put a regular file there", secrets.ErrDenied, name)
	case errors.Is(err, fsutil.ErrNotRegular):
		return nil, fmt.Errorf("%w: %s is not a regular file", secrets.ErrDenied, name)
	case isDenied(err):
		return nil, fmt.Errorf("%w: file %s cannot be opened: %w", secrets.ErrDenied, name, squashed(f.path, err))
	case err != nil:
		return nil, fmt.Errorf("%w: file %s cannot be opened: %w", secrets.ErrUnreachable, name, err)
	}
	if err := f.checkFile(file, name); err != nil {
		fsutil.CloseRead(file)
		return nil, err
	}
	return file, nil
}

// Has reports whether the directory has an entry of any kind with that name.
func (f *Dir) Has(name string) (bool, error) {
	return fresh(f, func(f *Dir) (bool, error) { return f.has(name) })
}

func (f *Dir) has(name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(f.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENAMETOOLONG):
		return false, nil
	case isDenied(err):
		return false, fmt.Errorf("%w: file %s: %w", secrets.ErrDenied, name, squashed(f.path, err))
	case err != nil:
		return false, fmt.Errorf("%w: file %s: %w", secrets.ErrUnreachable, name, err)
	}
	return true, nil
}

// Names returns the names of all entries of the directory, sorted. The error wraps
// secrets.ErrDenied if the caller may search the directory but not list it.
func (f *Dir) Names() ([]string, error) { return fresh(f, (*Dir).names) }

func (f *Dir) names() ([]string, error) {
	list, err := fsutil.OpenAt(f.at, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if isDenied(err) {
		return nil, fmt.Errorf("%w: the directory cannot be listed: %w", secrets.ErrDenied, squashed(f.path, err))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the directory cannot be listed: %w", secrets.ErrUnreachable, err)
	}
	defer fsutil.CloseRead(list)
	entries, err := list.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("%w: the directory cannot be listed: %w", secrets.ErrUnreachable, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

func (f *Dir) checkFile(file *os.File, name string) error {
	st, err := stat(file)
	if err != nil {
		return err
	}
	if st.Mode&0o077 != 0 {
		return fmt.Errorf("%w: others may access file %s (mode %04o): chmod 600 it, and change the secret if they may have read it",
			secrets.ErrDenied, name, st.Mode&0o7777)
	}
	return checkOwner("file "+name, st.Uid, f.path)
}

func checkOwner(what string, owner uint32, path string) error {
	if me := os.Geteuid(); owner != 0 && owner != uint32(me) {
		return squashed(path, fmt.Errorf("%w: %s belongs to user %d: it must belong to root or to the caller, user %d", secrets.ErrDenied, what, owner, me))
	}
	return nil
}

func isDenied(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)
}

func stat(f *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, fmt.Errorf("%w: %s: %w", secrets.ErrUnreachable, f.Name(), err)
	}
	return st, nil
}
