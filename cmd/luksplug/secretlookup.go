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

// selector is how an argument names a secret.
type selector struct {
	uuid  uuid.UUID
	usage secrets.Reference // if the uuid is zero
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

// selects reports whether d is the secret. A uuid selects secrets of every type.
func (s selector) selects(d secrets.Document) bool {
	if s.uuid != uuid.Nil {
		return s.uuid == d.UUID
	}
	answers, err := d.Answers(s.usage)
	return answers && err == nil
}

// reference returns the reference for a store that cannot list its secrets.
func (s selector) reference() secrets.Reference {
	if s.uuid != uuid.Nil {
		return secrets.Reference{Type: secrets.Passphrase, UUID: s.uuid}
	}
	return s.usage
}

// find looks the secret up in one store that can list. The error wraps
// [secrets.ErrNotFound] if the store does not have it.
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
	return secrets.Document{}, err // a damaged document could be that of the secret
}

// locate finds the secret that an argument names in the first store that has it, among
// those that can list.
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
