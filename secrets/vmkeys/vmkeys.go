package vmkeys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Dir is the default directory of the keys of VMs.
const Dir = "/run/luksplug/keys"

// ErrOtherVM reports that another VM of this host has the UUID of the VM for which a key is
// looked up. The errors of a [Store] that wrap it wrap secrets.ErrDenied as well.
var ErrOtherVM = errors.New("another VM of this host has the same UUID")

// ErrNoVM reports that no VM was named.
var ErrNoVM = errors.New("no VM was named: use vm:?uuid=UUID")

// Store is a [secrets.Keeper] of the keys of one VM. Create it with [New].
type Store struct {
	directory string
	vm        func() string
	owner     func() error
}

// New returns the store of one VM below directory, which holds those of all VMs. Each
// call of the store gets the VM's UUID from vm; "" means no VM, which has no keys.
func New(directory string, vm func() string) *Store { return &Store{directory: directory, vm: vm} }

// Owned returns the store with a check: owner returns an error, which should wrap
// [ErrOtherVM], if the keys of the UUID belong to another VM. It is called at each look-up
// that finds keys. nil means no check.
func (s *Store) Owned(owner func() error) *Store {
	return &Store{directory: s.directory, vm: s.vm, owner: owner}
}

// String returns the URI of the VM's store, without the parameter uuid if vm
// returns "".
func (s *Store) String() string {
	uri := "vm:" + (&url.URL{Path: s.directory}).EscapedPath()
	if id := s.vm(); id != "" {
		uri += "?uuid=" + url.QueryEscape(id)
	}
	return uri
}

// path returns the VM's directory.
func (s *Store) path() (string, error) { return path(s.directory, s.vm()) }

func path(directory, vm string) (string, error) {
	if vm == "" {
		return "", ErrNoVM
	}
	id, err := secrets.ParseUUID(vm)
	if err != nil {
		return "", fmt.Errorf("the UUID of the VM: %w", err)
	}
	return filepath.Join(directory, id.String()), nil
}

// open returns the VM's keys, or nil without a VM or its directory. The error wraps
// ErrDenied if the directory is not in memory.
func (s *Store) open() (*dir.Store, error) {
	path, err := s.path()
	if errors.Is(err, ErrNoVM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := fsutil.CheckDir(path); err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrDenied, err)
	}
	f, err := privdir.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !f.InMemory() {
		return nil, fmt.Errorf("%w: the directory %s is not in memory: a VM's keys must not survive a reboot", secrets.ErrDenied, path)
	}
	if s.owner != nil {
		if err := s.owner(); err != nil {
			return nil, fmt.Errorf("%w: %w", secrets.ErrDenied, err)
		}
	}
	return dir.New(path), nil
}

// Lookup implements [secrets.Store]. Without a VM or its directory, the error wraps
// ErrNotFound, so that the next store is queried.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	keys, err := s.opened(ctx, ref)
	if err != nil {
		return nil, storecall.Fail(s, ref, err)
	}
	secret, err := keys.Lookup(ctx, ref)
	return secret, storecall.Fail(s, ref, err)
}

// opened checks ref and opens the directory. The error wraps ErrNotFound if there is none.
func (s *Store) opened(ctx context.Context, ref secrets.Reference) (*dir.Store, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	keys, err := s.open()
	if err == nil && keys == nil {
		err = secrets.ErrNotFound
		if s.vm() == "" {
			err = fmt.Errorf("%w: %w", err, ErrNoVM)
		}
	}
	return keys, err
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	keys, err := s.opened(ctx, ref)
	if err != nil {
		return secrets.Document{}, storecall.Fail(s, ref, err)
	}
	d, err := keys.Describe(ctx, ref)
	return d, storecall.Fail(s, ref, err)
}

// List implements [secrets.Lister].
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	if err := ctx.Err(); err != nil {
		return nil, storecall.Fail(s, secrets.Reference{}, err)
	}
	keys, err := s.open()
	if err != nil || keys == nil {
		return nil, storecall.Fail(s, secrets.Reference{}, err)
	}
	documents, err := keys.List(ctx)
	return documents, storecall.Fail(s, secrets.Reference{}, err)
}

// Define implements [secrets.Keeper]. It treats every secret as ephemeral, whatever
// its document says, and creates the VM's directory if it is missing. The error wraps
// ErrPersistent if the directory is not in memory, and [ErrNoVM] without a VM.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return storecall.Fail(s, d.Reference(), s.define(ctx, d))
}

func (s *Store) define(ctx context.Context, d secrets.Document) error {
	if err := errors.Join(ctx.Err(), d.Validate()); err != nil {
		return err
	}
	path, err := s.path()
	if err != nil {
		return err
	}
	// QEMU's user may have to traverse the parent directory.
	err = makeParent(s.directory)
	if err == nil {
		err = fsutil.MakeDir(path, 0o700)
	}
	if errors.Is(err, fsutil.ErrUntrusted) {
		return fmt.Errorf("%w: %w", secrets.ErrDenied, err)
	}
	if err != nil {
		return fmt.Errorf("%w: the directory cannot be made: %w", secrets.ErrUnreachable, err)
	}
	f, err := privdir.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !f.InMemory() {
		_ = os.Remove(path) // fails if it is not empty
		return fmt.Errorf("%w: the directory %s is not in memory", secrets.ErrPersistent, path)
	}
	return dir.New(path).Define(ctx, d)
}

// makeParent makes the parent of a directory, through which other users may pass, if it is
// missing.
func makeParent(directory string) error {
	parent := filepath.Dir(directory)
	if _, err := os.Lstat(parent); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fsutil.MakeDir(parent, 0o711)
}

// Set implements [secrets.Keeper].
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	keys, err := s.opened(ctx, ref)
	if err == nil {
		err = keys.Set(ctx, ref, value)
	}
	return storecall.Fail(s, ref, err)
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	keys, err := s.opened(ctx, ref)
	if err == nil {
		err = keys.Remove(ctx, ref)
	}
	return storecall.Fail(s, ref, err)
}

// Wipe destroys the keys of a VM below directory: it overwrites and removes every
// file, and removes the VM's directory. A VM without keys is not an error. Wipe
// continues after a failure and returns all errors. It changes nothing in a directory
// that another user can have put there.
func Wipe(directory, vm string) error {
	path, err := path(directory, vm)
	if err != nil {
		return fmt.Errorf("destroy the keys of a VM: %w", err)
	}
	if err := fsutil.CheckDir(path); err != nil { // whose files would be overwritten?
		return fmt.Errorf("destroy the keys of VM %s: %w", vm, err)
	}
	// Not by paths: the directory's owner could replace entries by symbolic links.
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("destroy the keys of VM %s: %w", vm, err)
	}
	err = errors.Join(overwrite(root), root.Close(), os.RemoveAll(path))
	if err != nil {
		return fmt.Errorf("destroy the keys of VM %s: %w", vm, err)
	}
	return nil
}

// overwrite fills every regular file below root with zeros.
func overwrite(root *os.Root) error {
	var failed []error
	// WalkDir returns nil: the function collects all errors.
	_ = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			err = zero(root, name)
		}
		if err != nil {
			failed = append(failed, err)
		}
		return nil
	})
	return errors.Join(failed...)
}

func zero(root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK, 0) // it may be a pipe by now
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		_, err = f.Write(make([]byte, min(info.Size(), secrets.MaxLen))) // a larger file is no key
	}
	return errors.Join(err, f.Close())
}
