package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// secretJSON is a secret in JSON output. Members are only added.
type secretJSON struct {
	UUID        string `json:"uuid,omitempty"`
	UsageType   string `json:"usage_type,omitempty"`
	Usage       string `json:"usage,omitempty"`
	Description string `json:"description,omitempty"`
	Ephemeral   bool   `json:"ephemeral"`
	Private     bool   `json:"private"`
	Store       string `json:"store"`
}

func secretToJSON(f found) secretJSON {
	out := secretJSON{
		UsageType: string(f.document.UsageType), Usage: f.document.Usage, Description: f.document.Description,
		Ephemeral: f.document.Ephemeral, Private: f.document.Private, Store: f.store.String(),
	}
	if f.document.UUID != uuid.Nil {
		out.UUID = f.document.UUID.String()
	}
	return out
}

// found is a secret and the key store that contains it.
type found struct {
	store    secrets.Store
	document secrets.Document
}

// keeper returns the store, if the secret can be changed in it.
func (f found) keeper() (secrets.Keeper, error) {
	if k, ok := f.store.(secrets.Keeper); ok {
		return k, nil
	}
	return nil, &secrets.StoreError{Store: f.store.String(), Ref: f.document.Reference(), Err: errors.New("this kind of key store can only be read: change the secret with the tools of the store")}
}

// withStores runs f on the key stores, within the time limit of a command.
func withStores(ctx context.Context, a *app, f func(ctx context.Context, stores []secrets.Store) error) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	stores, err := openStores(a, a.storeOptions())
	if err != nil {
		return err
	}
	return f(ctx, stores)
}

// withSecret runs f on the secret that an argument names.
func withSecret(ctx context.Context, a *app, arg string, f func(ctx context.Context, secret found) error) error {
	return withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		secret, err := locate(ctx, stores, arg)
		if err != nil {
			return err
		}
		return f(ctx, secret)
	})
}

// parseSecret returns the reference that an argument names.
func parseSecret(arg string) (secrets.Reference, error) {
	if id, err := secrets.ParseUUID(arg); err == nil {
		return secrets.Reference{Type: secrets.Passphrase, UUID: id}, nil
	}
	kind, usage, found := strings.Cut(arg, ":")
	if u := secrets.UsageType(kind); found && usage != "" && u != secrets.UsageNone && u.Valid() {
		return secrets.Reference{Type: u.Type(), Usage: usage}, nil
	}
	return secrets.Reference{}, &usageError{fmt.Errorf("%q names no secret: give its uuid, or TYPE:USAGE like volume:/var/lib/images/vm1.img", arg)}
}

// find looks a secret up in one store that can list. A uuid finds secrets of every type.
// The error wraps [secrets.ErrNotFound] if the store does not have it.
func find(ctx context.Context, lister secrets.Lister, ref secrets.Reference) (secrets.Document, error) {
	documents, err := lister.List(ctx)
	for _, d := range documents {
		if answers, err := d.Answers(ref); answers && err == nil || ref.Usage == "" && ref.UUID == d.UUID {
			return d, nil
		}
	}
	if err == nil {
		_, err = secrets.Find(documents, ref)
		err = &secrets.StoreError{Store: lister.String(), Ref: ref, Err: err}
	}
	return secrets.Document{}, err // a damaged document could be that of the secret
}

// firstOf returns the result of try for the first store that has the secret; for the
// others, try returns an error that wraps [secrets.ErrNotFound].
func firstOf[T any](stores []secrets.Store, ref secrets.Reference, try func(secrets.Store) (T, error)) (T, error) {
	var failed []error
	for _, store := range stores {
		out, err := try(store)
		if !errors.Is(err, secrets.ErrNotFound) {
			return out, err
		}
		failed = append(failed, err)
	}
	var none T
	return none, secrets.MissingFrom(stores, ref, failed)
}

// locate finds the secret that an argument names, in the stores that can list.
func locate(ctx context.Context, stores []secrets.Store, arg string) (found, error) {
	ref, err := parseSecret(arg)
	if err != nil {
		return found{}, err
	}
	return firstOf(stores, ref, func(store secrets.Store) (found, error) {
		lister, ok := store.(secrets.Lister)
		if !ok {
			return found{}, secrets.ErrNotFound
		}
		d, err := find(ctx, lister, ref)
		return found{store, d}, err
	})
}
