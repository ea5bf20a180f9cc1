package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecretStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [STORE]",
		Short: "Show which key stores are locked, and until when the others are unlocked",
		Long: `status shows for each key store whether it is open (no passphrase protects it), locked,
or unlocked, and until when. It asks for nothing. Stores of other kinds than age: and
pkcs11: are shown as other: luksplug does not unlock them.`,
		Example: "  luksplug secret status\n  luksplug secret status --output json",
		Args:    optionalArgument("STORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretStatus(cmd.Context(), a, firstOrNone(args))
		},
	}
}

func runSecretStatus(ctx context.Context, a *app, name string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	stores, err := namedStores(a, name, a.storeOptions())
	if err != nil {
		return err
	}
	all, err := statesOf(ctx, stores)
	return errors.Join(showStores(a, all, "there is no key store\n"), err)
}

// statesOf returns the states of stores, and the errors of those whose state is unknown.
func statesOf(ctx context.Context, stores []secrets.Store) ([]storeJSON, error) {
	all := []storeJSON{}
	var failed []error
	for _, s := range stores {
		state, err := stateOf(ctx, s)
		all, failed = append(all, state), append(failed, err)
	}
	return all, errors.Join(failed...)
}
