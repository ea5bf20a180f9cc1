package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets/keystore"
)

func newSecretLock(a *app) *cobra.Command {
	atSuspend := false
	cmd := &cobra.Command{
		Use:   "lock [STORE]",
		Short: "Wipe the keys of key stores that were unlocked",
		Long: `lock wipes the key that 'secret unlock' has put into the kernel. Without STORE it wipes
the keys of all stores that this user has unlocked, also of those that are not
configured any longer. Look-ups that have begun may finish. A store that is not
unlocked is not an error.`,
		Example: `  luksplug secret lock
  luksplug secret lock age:/var/lib/luksplug/secrets`,
		Args: optionalArgument("STORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretLock(cmd.Context(), a, firstOrNone(args), atSuspend)
		},
	}
	cmd.Flags().BoolVar(&atSuspend, "at-suspend", false, "lock only what was unlocked with --until-suspend: for the script that runs before a suspend")
	return cmd
}

func runSecretLock(ctx context.Context, a *app, name string, atSuspend bool) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	if name != "" && atSuspend {
		return &usageError{errors.New("--at-suspend is for all stores: give it without STORE")}
	}
	var out []storeJSON
	var failed []error
	if !atSuspend {
		stores, err := unlockers(a, name, a.storeOptions())
		if err != nil && name != "" {
			return err
		}
		for _, s := range stores { // without an error that names a store: the keys are wiped below
			locked, err := s.Lock(ctx)
			if err != nil {
				failed = append(failed, err)
			} else if locked || name != "" {
				out = append(out, storeJSON{Store: s.String(), State: storeLocked})
			}
		}
	}
	if name == "" {
		names, err := keystore.LockAll(atSuspend)
		failed = append(failed, err)
		for _, n := range names {
			out = append(out, storeJSON{Store: n, State: storeLocked})
		}
	}
	return errors.Join(append(failed, showStores(a, out, "no key store was unlocked\n"))...)
}
