package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecretUnlock(a *app) *cobra.Command {
	var limit secrets.Limit
	cmd := &cobra.Command{
		Use:   "unlock [STORE]",
		Short: "Open a key store that a passphrase protects, once for this boot",
		Long: `unlock asks for the passphrase of a key store, or reads it from --passphrase-file, and
keeps the store's key in the kernel until 'secret lock', a reboot, or the end of the
time of --for. Until then no command of this user, nor libvirt's hook, needs the
passphrase. Only this user can read the key there. Of an age: store the kernel keeps
the identity, and of a pkcs11: store the PIN.

STORE is the name of a store as 'secret status' prints it, or a URI. Without it, all
stores that are locked are unlocked. There is no time limit for typing unless
--timeout is given.`,
		Example: `  luksplug secret unlock
  luksplug secret unlock age:/var/lib/luksplug/secrets --for 8h
  luksplug secret unlock --passphrase-file fd:3 3< passphrase`,
		Args: optionalArgument("STORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretUnlock(cmd.Context(), a, firstOrNone(args), limit)
		},
	}
	cmd.Flags().Var((*timeFlag)(&limit.For), "for", "lock the store again after this time, such as 8h; a number without a unit is in seconds")
	cmd.Flags().BoolVar(&limit.Suspend, "until-suspend", false, "lock the store again when the host is suspended or hibernates")
	return cmd
}

// maxFor is the longest time for which a store is unlocked.
const maxFor = 10 * 365 * 24 * time.Hour

func runSecretUnlock(ctx context.Context, a *app, name string, limit secrets.Limit) error {
	if limit.For < 0 || limit.For > maxFor {
		return &usageError{fmt.Errorf("--for %s is negative, or longer than 10 years", limit.For)}
	}
	stray := "" // what is probably wrong in the passphrase
	options := a.storeOptions()
	if a.flags.passphrase != "" {
		options.Prompt = func(ctx context.Context, _ string) (*secrets.Secret, error) {
			p, err := a.readPassphrase(ctx, a.flags.passphrase)
			if err == nil {
				stray = p.Stray()
			}
			return p, err
		}
	}
	stores, err := unlockers(a, name, options)
	if err != nil {
		return err
	}
	if name == "" {
		if stores, err = lockedOf(ctx, a, stores); err != nil || len(stores) == 0 {
			return err
		}
	}
	if a.flags.passphrase != "" && len(stores) > 1 {
		return &usageError{fmt.Errorf("%d key stores are locked, and --passphrase-file gives one passphrase: name the STORE", len(stores))}
	}
	if limit.Suspend && !locksAtSuspend("/") {
		a.log.Warn("nothing on this host runs 'luksplug secret lock --at-suspend' before a suspend: the key is not used after one, but it is in memory during it, and in the image of a hibernation; see \"Unlocking a store at boot\" in docs/keystores.md")
	}
	var out []storeJSON
	for _, s := range stores {
		state, err := s.Unlock(ctx, limit)
		switch {
		case errors.Is(err, secrets.ErrPassphrase) && options.Prompt == nil:
			err = &usageError{fmt.Errorf("key store %s: there is no terminal to ask for the passphrase at: use --passphrase-file FILE (- for standard input, or fd:N)", s)}
		case errors.Is(err, secrets.ErrWrongPassphrase) && stray != "":
			err = fmt.Errorf("%w; the passphrase %s, which counts: write it without (printf %%s)", err, stray)
		}
		if err != nil {
			return errors.Join(showUnlessNone(a, out), err)
		}
		out = append(out, stateJSON(s, state))
	}
	return showStores(a, out, "")
}

// showUnlessNone prints what was unlocked before a failure.
func showUnlessNone(a *app, all []storeJSON) error {
	if len(all) == 0 {
		return nil
	}
	return showStores(a, all, "")
}

// lockedOf returns those of the stores that are locked. If none is, it prints their states.
func lockedOf(ctx context.Context, a *app, stores []secrets.Unlocker) ([]secrets.Unlocker, error) {
	var locked []secrets.Unlocker
	var states []storeJSON
	for _, s := range stores {
		state, err := stateOf(ctx, s)
		if err != nil {
			return nil, err
		}
		states = append(states, state)
		if state.State == storeLocked {
			locked = append(locked, s)
		}
	}
	if len(locked) == 0 {
		return nil, showStores(a, states, "")
	}
	return locked, nil
}

// locksAtSuspend reports whether a script or unit of systemd's runs 'secret lock
// --at-suspend'. See systemd-sleep(8).
func locksAtSuspend(root string) bool {
	for _, pattern := range []string{
		"usr/lib/systemd/system-sleep/*", "lib/systemd/system-sleep/*", "etc/systemd/system-sleep/*",
		"etc/systemd/system/*.service", "usr/lib/systemd/system/luksplug*.service",
	} {
		files, _ := filepath.Glob(filepath.Join(root, pattern)) // the pattern is valid
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte("secret lock --at-suspend")) {
				return true
			}
		}
	}
	return false
}
