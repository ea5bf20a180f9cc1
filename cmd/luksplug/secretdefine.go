package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

func newSecretDefine(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "define FILE",
		Short: "Define a secret, or change one, from a <secret> document",
		Long: `define reads libvirt's <secret> document from FILE (- for standard input) and
defines the secret in the first key store that can keep it; a secret that is
defined already is changed where it is, and keeps its value. A document without
uuid gets one, which is printed. An ephemeral secret needs a store in memory.`,
		Example: `  luksplug secret define vm1-vdb-secret.xml
  luksplug secret --keystore dir:/run/keys define - < secret.xml`,
		Args: argument("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runSecretDefine(cmd.Context(), args[0]) },
	}
}

func (a *app) runSecretDefine(ctx context.Context, path string) error {
	text, err := a.readInput(path)
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
	if err := a.makeDefaults(d.Ephemeral); err != nil {
		return err
	}
	return a.withStores(ctx, func(ctx context.Context, stores []secrets.Store) error {
		keeper, err := placeFor(ctx, stores, d)
		if err != nil {
			return err
		}
		if a.flags.output == "json" {
			return a.printJSON(secretToJSON(found{keeper, d}))
		}
		return a.print(fmt.Sprintf("secret %s defined in %s\n", d.UUID, keeper))
	})
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
			// A directory that the first definition makes: there is nothing in it.
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
