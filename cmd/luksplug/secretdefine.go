package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

func newSecretDefine(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "define FILE",
		Short: "Define a secret, or change one, from a <secret> document",
		Long: `define reads libvirt's <secret> document from FILE (- for standard input) and defines
the secret in the first key store that can keep it. A secret that is already defined
is changed in its store and keeps its value. If the document has no uuid, define
makes one. It prints the uuid. An ephemeral secret needs a store in memory.`,
		Example: `  luksplug secret define vm1-vdb-secret.xml
  luksplug secret --keystore dir:/run/keys define - < secret.xml`,
		Args: arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return runSecretDefine(cmd.Context(), a, args[0]) },
	}
}

func runSecretDefine(ctx context.Context, a *app, path string) error {
	text, err := a.readInput(ctx, path)
	if err != nil {
		return &usageError{fmt.Errorf("read the <secret> document: %w", err)}
	}
	d, err := secrets.ParseDocument(text)
	if err != nil {
		return err
	}
	if d.UUID == uuid.Nil {
		d.UUID = uuid.New()
	}
	keeper, err := a.define(ctx, d)
	if err != nil {
		return err
	}
	return a.show(printable.Line(fmt.Sprintf("secret %s defined in %s", d.UUID, keeper))+"\n", secretToJSON(found{keeper, d}))
}

// define defines d in the key stores of the command, as the function define does, and makes
// the default store if that is missing.
func (a *app) define(ctx context.Context, d secrets.Document) (keeper secrets.Keeper, err error) {
	names, err := a.storeNames()
	if err == nil && names.defaults != nil {
		err = names.defaults.create(d.Ephemeral)
	}
	if err != nil {
		return nil, err
	}
	err = withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		for _, store := range stores {
			a.pruneBefore(store)
		}
		if keeper, err = define(ctx, stores, d); err == nil {
			a.settleAfter(ctx, keeper)
		}
		return err
	})
	return keeper, err
}

// define defines d in the store that has it already, else in the first that can keep it.
// It returns that store.
func define(ctx context.Context, stores []secrets.Store, d secrets.Document) (secrets.Keeper, error) {
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
			// An empty store, whose directory the first definition makes.
		case err != nil:
			return nil, err // the secret could be there
		}
		documents = append(documents, held...)
	}
	// Of two secrets with the same usage, the second would never be found.
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
		err = &secrets.StoreError{Store: secrets.Chain(stores...).String(), Ref: d.Reference(), Err: errors.New("none of these key stores can be changed: give another with --keystore")}
	}
	return nil, err
}
