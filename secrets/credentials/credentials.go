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
	"github.com/luksplug/luksplug/secrets/internal/nearname"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Store is a [secrets.Store] of the credentials that the service manager passed to
// this process. Create it with [New].
type Store struct {
	directory string
}

// New returns the store of the service manager's directory, the value of
// $CREDENTIALS_DIRECTORY. If it is "", Lookup returns ErrUnreachable.
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
	root, err := os.OpenRoot(s.directory)
	if err != nil {
		return nil, cannotOpen("the directory", err)
	}
	defer func() { _ = root.Close() }() // only read
	name, err := nameOf(ref)
	if err != nil {
		return nil, err
	}
	if info, err := root.Lstat(name); err == nil && info.Mode().Type()&^fs.ModeSymlink != 0 {
		return nil, fmt.Errorf("%w: credential %s is not a regular file", secrets.ErrDenied, name)
	}
	// O_NONBLOCK, because opening a named pipe would block.
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if info, lstatErr := root.Lstat(name); lstatErr == nil && info.Mode().Type() == fs.ModeSymlink {
		if err == nil {
			_ = file.Close() // nothing was read
		}
		return nil, fmt.Errorf("%w: credential %s is a symbolic link, which the service manager never creates", secrets.ErrDenied, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(root, ref)
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

// check refuses a file that the service manager would not have created. It is less
// strict than package dir: the manager grants the service's user access by an access
// control list, which shows as a permission of the group.
func check(file *os.File, name string) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("%w: credential %s: %w", secrets.ErrUnreachable, name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: credential %s is not a regular file", secrets.ErrDenied, name)
	}
	if info.Mode().Perm()&0o027 != 0 {
		return fmt.Errorf("%w: others may use credential %s (mode %04o), so the service manager did not create it", secrets.ErrDenied, name, info.Mode().Perm())
	}
	return nil
}

// missing is the error for a secret without a credential. A directory that cannot be listed
// has no similar ones.
func missing(root *os.Root, ref secrets.Reference) error {
	var names []string
	entries, _ := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return nearname.Missing(ref, dir.FileName(ref), names)
}

// nameOf returns the name of ref's credential. The error wraps ErrNotFound if it is too long for a file.
func nameOf(ref secrets.Reference) (string, error) {
	name := dir.FileName(ref)
	if len(name) > unix.NAME_MAX {
		return "", fmt.Errorf("%w: the usage gives a name of %d bytes, the limit is %d: refer to the secret by uuid", secrets.ErrNotFound, len(name), unix.NAME_MAX)
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
