package vmkeys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Folder is the default directory of the keys of VMs.
const Folder = "/run/luksplug/keys"

// ErrNoVM: it is not said whose keys are meant.
var ErrNoVM = errors.New("whose keys? name the VM: vm:?uuid=UUID")

// Store is a [secrets.Keeper] of the keys of one VM. Make one with [New].
type Store struct {
	folder string
	vm     func() string
}

// New returns the store of the VM whose UUID vm returns, in a directory of VMs. vm is
// called by each call anew; "" is no VM, which has no keys.
func New(folder string, vm func() string) *Store { return &Store{folder, vm} }

// String returns the URI of the VM's store, or of that of any VM while none is
// known.
func (s *Store) String() string {
	uri := "vm:" + (&url.URL{Path: s.folder}).EscapedPath()
	if id := s.vm(); id != "" {
		uri += "?uuid=" + url.QueryEscape(id)
	}
	return uri
}

// path returns the VM's directory.
func (s *Store) path() (string, error) { return path(s.folder, s.vm()) }

func path(folder, vm string) (string, error) {
	if vm == "" {
		return "", ErrNoVM
	}
	id, err := secrets.ParseUUID(vm)
	if err != nil {
		return "", fmt.Errorf("the UUID of the VM: %w", err)
	}
	return filepath.Join(folder, id.String()), nil
}

// open returns the VM's keys; nil where there are none, and ErrDenied where they
// are not in memory only.
func (s *Store) open() (*dir.Store, error) {
	path, err := s.path()
	if errors.Is(err, ErrNoVM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("%w: the directory %s is not in memory: keys of a VM must not outlive the host's", secrets.ErrDenied, path)
	}
	return dir.New(path), nil
}

// Lookup implements [secrets.Store]. Without a VM, or without a directory of the
// VM's, nothing is found, so that another store is asked.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	keys, err := s.opened(ctx, ref)
	if err != nil {
		return nil, storecall.Fail(s, ref, err)
	}
	secret, err := keys.Lookup(ctx, ref)
	return secret, storecall.Fail(s, ref, err)
}

// opened opens the directory for a call that is about ref.
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

// Define implements [secrets.Keeper]. Every secret here is ephemeral, whatever its
// document says. The VM's directory is made where it is missing. ErrPersistent is
// for a directory that is not in memory; [ErrNoVM] is wrapped where no VM is known.
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
	// QEMU's user passes through what this may be in.
	if err := os.MkdirAll(filepath.Dir(s.folder), 0o711); err != nil {
		return fmt.Errorf("%w: the directory cannot be made: %w", secrets.ErrUnreachable, err)
	}
	f, err := privdir.Make(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !f.InMemory() {
		_ = os.Remove(path) // refused where there is something in it
		return fmt.Errorf("%w: the directory %s is not in memory", secrets.ErrPersistent, path)
	}
	return dir.New(path).Define(ctx, d)
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

// Wipe destroys the keys of a VM in a directory of VMs: every file is overwritten and
// removed, and the VM's directory as well. A VM without keys is not an error.
// What cannot be removed is in the error; the rest is removed all the same.
func Wipe(folder, vm string) error {
	path, err := path(folder, vm)
	if err != nil {
		return fmt.Errorf("destroy the keys of a VM: %w", err)
	}
	// Not by paths: the directory's owner could replace entries by links.
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

// overwrite fills every file in a directory with zeros.
func overwrite(root *os.Root) error {
	var failed []error
	// Its own error is among those that the function was called with.
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
	f, err := root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	return errors.Join(err, f.Close())
}
