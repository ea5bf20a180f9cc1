package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/internal/printable"
)

func newSecretUndefine(a *app) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "undefine SECRET",
		Short: "Remove a secret and its value",
		Long: `undefine removes a secret and its value from its key store. What only this secret
opens is then lost, so a secret that is in use is removed with --force only. In use
is a secret of a disk that luksplug has attached to a VM of this host; one that a
document of libvirt names: the definition of a domain, which may be off, with
luksplug's record of its disks, a saved state, a snapshot, a storage pool; and one
whose own document binds it to a volume that exists. libvirt is that of --connect.
If the usual one does not answer, its files are read instead, and a warning says what
was not looked at; if another one does not, the secret stays.`,
		Example: `  luksplug secret undefine 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f`,
		Args:    arguments("SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretUndefine(cmd.Context(), a, args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove the secret even if it is in use, or if that is not known")
	return cmd
}

func runSecretUndefine(ctx context.Context, a *app, name string, force bool) error {
	return withSecret(ctx, a, name, func(ctx context.Context, f found) error { return undefine(ctx, a, f, force) })
}

// undefine removes a secret. Without force it refuses one that is in use.
func undefine(ctx context.Context, a *app, f found, force bool) error {
	keeper, err := f.keeper()
	if err != nil {
		return err
	}
	uses, err := usesNow(ctx, a, f.document)
	if err != nil && !force {
		return fmt.Errorf("check whether the secret is in use: %w: --force removes it without this check", err)
	}
	if len(uses) > 0 && !force {
		return &inUseError{secret: f.document, uses: uses, lost: "without the secret the disk cannot be attached again"}
	}
	if err := keeper.Remove(ctx, f.document.Reference()); err != nil {
		return err
	}
	if len(uses) > 0 {
		a.log.Warnf("the secret was in use: %s", usesText(uses))
	}
	return a.show(printable.Line(fmt.Sprintf("secret with %s removed from %s", f.document, f.store))+"\n", secretToJSON(f))
}
