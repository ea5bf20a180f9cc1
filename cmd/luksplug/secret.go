package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecret(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Define secrets and look after them in the key stores",
		Long: `secret defines secrets in the key stores and looks after them, with the habits of
virsh secret-define and its relatives. The stores are those of --keystore, else
those of the configuration, else one in luksplug's own folder, encrypted with age.

SECRET is a uuid, or TYPE:USAGE with a usage type of the <secret> document, such
as volume:/var/lib/images/vm1.img.`,
		Example: `  luksplug secret define vm1-vdb-secret.xml
  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
  luksplug secret list`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSecretDefine(a), newSecretList(a), newSecretDump(a), newSecretSet(a), newSecretGet(a), newSecretUndefine(a), newSecretFind(a))
	return cmd
}

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
func (a *app) withStores(ctx context.Context, f func(ctx context.Context, stores []secrets.Store) error) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	stores, err := a.stores()
	if err != nil {
		return err
	}
	return f(ctx, stores)
}

// withSecret runs f with the secret that an argument names.
func (a *app) withSecret(ctx context.Context, arg string, f func(ctx context.Context, secret found) error) error {
	return a.withStores(ctx, func(ctx context.Context, stores []secrets.Store) error {
		secret, err := locate(ctx, stores, arg)
		if err != nil {
			return err
		}
		return f(ctx, secret)
	})
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

// selects reports whether d is meant. A uuid is enough without the type.
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
