package credentials

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Store is a [secrets.Store] of what the service manager handed over. Make one
// with [New].
type Store struct {
	directory string
}

// New returns the store of the directory that the service manager made, the value of
// $CREDENTIALS_DIRECTORY. "" is for a process that has none: nothing can be looked
// up then.
func New(directory string) *Store { return &Store{directory} }

// String returns "credentials:".
func (s *Store) String() string { return "credentials:" }

// Lookup implements [secrets.Store].
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	value, err := s.lookup(ctx, ref)
	return value, storecall.Fail(s, ref, err)
}

func (s *Store) lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	if s.directory == "" {
		return nil, fmt.Errorf("%w: CREDENTIALS_DIRECTORY is not set: run this as a systemd service with LoadCredential=, or name a directory with credentials:PATH",
			secrets.ErrUnreachable)
	}
	folder, err := os.OpenRoot(s.directory)
	if err != nil {
		return nil, cannotOpen("the directory", err)
	}
	defer func() { _ = folder.Close() }() // only read
	name, err := nameOf(ref)
	if err != nil {
		return nil, err
	}
	// Not blocking, or a pipe of that name would hold us here.
	file, err := folder.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if info, lstatErr := folder.Lstat(name); lstatErr == nil && info.Mode().Type() == fs.ModeSymlink {
		if err == nil {
			_ = file.Close() // not even read
		}
		return nil, fmt.Errorf("%w: credential %s is a symbolic link, which the service manager does not make", secrets.ErrDenied, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no credential %s", secrets.ErrNotFound, name)
	}
	if err != nil {
		return nil, cannotOpen("credential "+name, err)
	}
	defer func() { _ = file.Close() }() // only read
	if err := check(file, name); err != nil {
		return nil, err
	}
	value, err := secrets.Read(file)
	if err != nil {
		return nil, fmt.Errorf("%w: credential %s: %w", secrets.ErrUnreachable, name, err)
	}
	return value, nil
}

// check refuses what the service manager would not have made. It is less strict
// than package dir: the manager lets the service's user in by an access control
// list, which shows as a permission of the group.
func check(file *os.File, name string) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("%w: credential %s: %w", secrets.ErrUnreachable, name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: credential %s is not a regular file", secrets.ErrDenied, name)
	}
	if info.Mode().Perm()&0o027 != 0 {
		return fmt.Errorf("%w: others may use credential %s (mode %04o), so the service manager has not made it", secrets.ErrDenied, name, info.Mode().Perm())
	}
	return nil
}

// nameOf returns the name of the credential that ref names.
func nameOf(ref secrets.Reference) (string, error) {
	name := dir.FileName(ref)
	if len(name) > unix.NAME_MAX {
		return "", fmt.Errorf("%w: the usage makes a name of %d bytes, %d is the limit: refer to the secret by uuid", secrets.ErrNotFound, len(name), unix.NAME_MAX)
	}
	return name, nil
}

func cannotOpen(what string, err error) error {
	answer := secrets.ErrUnreachable
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		answer = secrets.ErrDenied
	}
	return fmt.Errorf("%w: %s cannot be opened: %w", answer, what, err)
}
