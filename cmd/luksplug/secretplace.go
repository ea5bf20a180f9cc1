package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// found is a secret and the key store that has it.
type found struct {
	store    secrets.Store
	document secrets.Document
}

// keeper returns the store for changing the secret.
func (f found) keeper() (secrets.Keeper, error) {
	if k, ok := f.store.(secrets.Keeper); ok {
		return k, nil
	}
	return nil, &secrets.StoreError{Store: f.store.String(), Ref: f.document.Reference(), Err: errors.New("this kind of key store can only be read: change it by its own means")}
}

// withStores runs f with the key stores, within the time of the command line.
func (a *app) withStores(cmd *cobra.Command, f func(ctx context.Context, stores []secrets.Store) error) error {
	ctx, cancel := a.bounded(cmd.Context())
	defer cancel()
	stores, err := a.stores()
	if err != nil {
		return err
	}
	return f(ctx, stores)
}

// withSecret runs f with the secret that an argument names.
func (a *app) withSecret(cmd *cobra.Command, arg string, f func(ctx context.Context, secret found) error) error {
	return a.withStores(cmd, func(ctx context.Context, stores []secrets.Store) error {
		secret, err := locate(ctx, stores, arg)
		if err != nil {
			return err
		}
		return f(ctx, secret)
	})
}

// listAll returns the secrets of the stores in order. cannot is told of stores
// that do not list. The error is that of the stores that could not be asked.
func listAll(ctx context.Context, stores []secrets.Store, cannot func(secrets.Store)) ([]found, error) {
	var out []found
	var failed []error
	for _, s := range stores {
		lister, ok := s.(secrets.Lister)
		if !ok {
			cannot(s)
			continue
		}
		documents, err := lister.List(ctx)
		for _, d := range documents {
			out = append(out, found{s, d})
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return out, errors.Join(failed...)
}

// selector is what the command line says a secret by.
type selector struct {
	uuid  uuid.UUID
	usage secrets.Reference // where the uuid is zero
}

func parseSelector(arg string) (selector, error) {
	if id, err := secrets.ParseUUID(arg); err == nil {
		return selector{uuid: id}, nil
	}
	kind, usage, found := strings.Cut(arg, ":")
	if u := secrets.UsageType(kind); found && usage != "" && u != secrets.UsageNone && u.Valid() {
		return selector{usage: secrets.Reference{Type: u.Type(), Usage: usage}}, nil
	}
	return selector{}, &usageError{fmt.Errorf("%q names no secret: give its uuid, or TYPE:USAGE like volume:/var/lib/images/vm1.img", arg)}
}

// selects tells whether d is meant. Whoever names a uuid need not know the type.
func (s selector) selects(d secrets.Document) bool {
	if s.uuid != uuid.Nil {
		return s.uuid == d.UUID
	}
	answers, err := d.Answers(s.usage)
	return answers && err == nil
}

// reference returns the reference for a store that cannot say what it holds.
func (s selector) reference() secrets.Reference {
	if s.uuid != uuid.Nil {
		return secrets.Reference{Type: secrets.Passphrase, UUID: s.uuid}
	}
	return s.usage
}

// find looks a secret up in one store that can list.
func (s selector) find(ctx context.Context, lister secrets.Lister) (secrets.Document, error) {
	documents, err := lister.List(ctx)
	for _, d := range documents {
		if s.selects(d) {
			return d, nil
		}
	}
	if err == nil {
		err = &secrets.StoreError{Store: lister.String(), Ref: s.reference(), Err: secrets.ErrNotFound}
	}
	return secrets.Document{}, err // of what is damaged: it could be the one
}

// locate finds the secret that an argument names in the first store that has it,
// of those that can list.
func locate(ctx context.Context, stores []secrets.Store, arg string) (found, error) {
	s, err := parseSelector(arg)
	if err != nil {
		return found{}, err
	}
	for _, store := range stores {
		lister, ok := store.(secrets.Lister)
		if !ok {
			continue
		}
		d, err := s.find(ctx, lister)
		if err == nil {
			return found{store, d}, nil
		}
		if !errors.Is(err, secrets.ErrNotFound) {
			return found{}, err
		}
	}
	return found{}, &secrets.StoreError{Store: secrets.Chain(stores...).String(), Ref: s.reference(), Err: secrets.ErrNotFound}
}

// placeFor defines d in the store that has it already, else in the first that
// can keep it.
func placeFor(ctx context.Context, stores []secrets.Store, d secrets.Document) (secrets.Keeper, error) {
	var documents []secrets.Document
	for _, store := range stores {
		lister, ok := store.(secrets.Lister)
		if !ok {
			continue
		}
		held, err := lister.List(ctx)
		switch i := slices.IndexFunc(held, func(o secrets.Document) bool { return o.UUID == d.UUID }); {
		case i >= 0:
			keeper, err := found{store, held[i]}.keeper()
			if err != nil {
				return nil, err
			}
			return keeper, keeper.Define(ctx, d)
		case errors.Is(err, secrets.ErrUnreachable) && errors.Is(err, fs.ErrNotExist):
			// A folder that what is defined first makes: there is nothing in it.
		case err != nil:
			return nil, err // it could be there
		}
		documents = append(documents, held...)
	}
	// Of two stores with the same usage, the second would never be asked.
	if err := secrets.CheckDefine(documents, d); err != nil {
		return nil, &secrets.StoreError{Store: secrets.Chain(stores...).String(), Ref: d.Reference(), Err: err}
	}
	var err error
	for _, store := range stores {
		keeper, ok := store.(secrets.Keeper)
		if !ok {
			continue
		}
		if err = keeper.Define(ctx, d); !errors.Is(err, secrets.ErrPersistent) && !errors.Is(err, vmkeys.ErrNoVM) {
			return keeper, err
		}
	}
	if err == nil {
		err = &secrets.StoreError{Store: secrets.Chain(stores...).String(), Ref: d.Reference(), Err: errors.New("no key store here can be changed: give another with --keystore")}
	}
	return nil, err
}
