package vmkeys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// ErrOtherVM reports that another VM of this host has the UUID of the VM for which a key is
// looked up. The errors of a [Store] that wrap it wrap secrets.ErrDenied as well.
var ErrOtherVM = errors.New("another VM of this host has the same UUID")

// ErrNoVM reports that no VM was named.
var ErrNoVM = errors.New("no VM was named: use vm:?uuid=UUID")

// Store is a [secrets.Keeper] of the keys of one VM. Create it with [New] or [Places.Store].
type Store struct {
	places Places
	vm     func() string
	owner  func() error
}

// New returns the store of one VM below directory, which holds those of all VMs in memory
// and no others. Each call of the store gets the VM's UUID from vm; "" means no VM, which
// has no keys.
func New(directory string, vm func() string) *Store { return Places{Memory: directory}.Store(vm) }

// Store returns the store of one VM. Each call of the store gets the VM's UUID from vm; ""
// means no VM, which has no keys.
func (p Places) Store(vm func() string) *Store { return &Store{places: p, vm: vm} }

// Owned returns the store with a check: owner returns an error, which should wrap
// [ErrOtherVM], if the keys of the UUID belong to another VM. It is called at each look-up
// that finds keys. nil means no check.
func (s *Store) Owned(owner func() error) *Store {
	return &Store{places: s.places, vm: s.vm, owner: owner}
}

// Places returns the places of the store.
func (s *Store) Places() Places { return s.places }

// VM returns the UUID of the VM, "" for none.
func (s *Store) VM() string { return s.vm() }

// String returns the URI of the VM's store, without the parameter uuid if vm
// returns "".
func (s *Store) String() string {
	uri := "vm:" + (&url.URL{Path: s.places.Memory}).EscapedPath()
	if id := s.vm(); id != "" {
		uri += "?uuid=" + url.QueryEscape(id)
	}
	return uri
}

// open returns the stores with the VM's keys: that in memory first, since what was put
// there last is newer. There are none without a VM or its directories. The error wraps
// ErrDenied if the directory that should be in memory is not. If only the directory on the
// disk cannot be used, the error comes with the store in memory.
func (s *Store) open() ([]secrets.Keeper, error) {
	id, err := parse(s.vm())
	if errors.Is(err, ErrNoVM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []secrets.Keeper
	memory, err := s.places.memory(id)
	if err != nil {
		return nil, err
	}
	if memory != nil {
		out = append(out, memory)
	}
	disk, failed := s.places.disk(id)
	if disk != nil {
		out = append(out, disk)
	}
	if s.owner != nil && len(out) > 0 {
		if err := s.owner(); err != nil {
			return nil, fmt.Errorf("%w: %w", secrets.ErrDenied, err)
		}
	}
	return out, failed
}

// opened checks ref and opens the stores, as open does. The error wraps ErrNotFound if there
// is none.
func (s *Store) opened(ctx context.Context, ref secrets.Reference) ([]secrets.Keeper, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	keys, err := s.open()
	if err == nil && len(keys) == 0 {
		err = secrets.ErrNotFound
		if s.vm() == "" {
			err = fmt.Errorf("%w: %w", err, ErrNoVM)
		}
	}
	return keys, err
}

// first returns the result of try for the first store that has the secret.
func first[T any](s *Store, ctx context.Context, ref secrets.Reference, try func(secrets.Keeper) (T, error)) (out T, err error) {
	keys, failed := s.opened(ctx, ref)
	for _, k := range keys {
		if out, err = try(k); !errors.Is(err, secrets.ErrNotFound) {
			return out, storecall.Fail(s, ref, err)
		}
	}
	return out, storecall.Fail(s, ref, cmp.Or(failed, err))
}

// InMemory reports whether a look-up finds the secret in memory, from where a reboot of the
// host takes it.
func (s *Store) InMemory(ctx context.Context, ref secrets.Reference) bool {
	id, err := parse(s.vm())
	if err != nil {
		return false
	}
	memory, err := s.places.memory(id)
	if err != nil || memory == nil {
		return false
	}
	_, err = memory.Describe(ctx, ref)
	return err == nil
}

// Lookup implements [secrets.Store]. Without a VM or its directory, the error wraps
// ErrNotFound, so that the next store is queried.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	return first(s, ctx, ref, func(k secrets.Keeper) (*secrets.Secret, error) { return k.Lookup(ctx, ref) })
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	return first(s, ctx, ref, func(k secrets.Keeper) (secrets.Document, error) {
		return k.(secrets.Describer).Describe(ctx, ref)
	})
}

// List implements [secrets.Lister].
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	documents, err := s.list(ctx)
	return documents, storecall.Fail(s, secrets.Reference{}, err)
}

func (s *Store) list(ctx context.Context) ([]secrets.Document, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	keys, err := s.open()
	if err != nil && len(keys) == 0 {
		return nil, err
	}
	var out []secrets.Document
	failed := []error{err}
	for _, k := range keys {
		documents, err := k.List(ctx)
		var of *secrets.StoreError
		if errors.As(err, &of) {
			err = of.Err
		}
		failed = append(failed, err)
		for _, d := range documents {
			if _, err := secrets.Find(out, d.Reference()); errors.Is(err, secrets.ErrNotFound) {
				out = append(out, d)
			}
		}
	}
	return out, errors.Join(failed...)
}

// Define implements [secrets.Keeper]. A new secret is put in memory, whatever its document
// says, and [Places.Keep] moves it to the disk later. It creates the VM's directory if it
// is missing. The error wraps ErrPersistent if the directory is not in memory, or if the
// secret is on the disk and the document makes it ephemeral, and [ErrNoVM] without a VM.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return storecall.Fail(s, d.Reference(), s.define(ctx, d))
}

func (s *Store) define(ctx context.Context, d secrets.Document) error {
	if err := errors.Join(ctx.Err(), storecall.Definable(d)); err != nil {
		return err
	}
	id, err := parse(s.vm())
	if err != nil {
		return err
	}
	disk, err := s.places.disk(id)
	if err != nil {
		return err
	}
	if disk != nil {
		documents, err := disk.List(ctx)
		if err != nil {
			return err // an unreadable document may have the same usage
		}
		if err := secrets.CheckDefine(documents, d); err != nil {
			return err
		}
		if slices.ContainsFunc(documents, func(o secrets.Document) bool { return o.UUID == d.UUID }) {
			return disk.Define(ctx, d)
		}
	}
	memory, err := s.places.makeMemory(id)
	if err != nil {
		return err
	}
	return memory.Define(ctx, d)
}

// Set implements [secrets.Keeper].
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	_, err := first(s, ctx, ref, func(k secrets.Keeper) (struct{}, error) { return struct{}{}, k.Set(ctx, ref, value) })
	return err
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	keys, err := s.opened(ctx, ref)
	if err != nil {
		return storecall.Fail(s, ref, err)
	}
	removed := false
	for _, k := range keys {
		err = k.Remove(ctx, ref)
		if err == nil {
			removed = true // a copy may be left by an interrupted move
		} else if !errors.Is(err, secrets.ErrNotFound) {
			return storecall.Fail(s, ref, err)
		}
	}
	if removed {
		return nil
	}
	return storecall.Fail(s, ref, err)
}
