package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecretList(a *app) *cobra.Command {
	filter := secretFilter{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the secrets of the key stores",
		Long: `list shows the secrets of the key stores, in the order of the stores. It reads no
values. With --private, --ephemeral or their opposites it shows only those secrets,
as virsh secret-list does.`,
		Example: "  luksplug secret list\n  luksplug secret list --no-private\n  luksplug secret --keystore dir:/run/keys list --output json",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSecretList(cmd.Context(), a, filter) },
	}
	filter.register(cmd)
	return cmd
}

// secretFilter selects secrets by their flags. Opposite flags together select all, as in
// virsh.
type secretFilter struct{ private, noPrivate, ephemeral, noEphemeral bool }

func (f *secretFilter) register(cmd *cobra.Command) {
	p := cmd.Flags()
	p.BoolVar(&f.private, "private", false, "list private secrets")
	p.BoolVar(&f.noPrivate, "no-private", false, "list secrets that are not private")
	p.BoolVar(&f.ephemeral, "ephemeral", false, "list ephemeral secrets")
	p.BoolVar(&f.noEphemeral, "no-ephemeral", false, "list secrets that are not ephemeral")
}

// passes reports whether a secret is listed.
func (f secretFilter) passes(s found) bool {
	selected := func(is, yes, no bool) bool { return yes == no || is == yes }
	return selected(s.document.Private, f.private, f.noPrivate) && selected(s.document.Ephemeral, f.ephemeral, f.noEphemeral)
}

func runSecretList(ctx context.Context, a *app, filter secretFilter) error {
	return withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		all, err := listAll(ctx, stores, func(s secrets.Store) { a.log.Warnf("key store %s cannot list its secrets", s) })
		if len(all) == 0 && err != nil {
			return err
		}
		// The list does not need the keys: an unknown state is in the JSON output.
		states, _ := statesOf(ctx, stores)
		shown := slices.DeleteFunc(slices.Clone(all), func(s found) bool { return !filter.passes(s) })
		if len(shown) == 0 && len(all) > 0 {
			return errors.Join(showSecrets(a, shown, states, fmt.Sprintf("none of the %d secrets that are defined is of this kind\n", len(all))), err)
		}
		return errors.Join(showSecrets(a, shown, states, "no secret is defined\n"), err)
	})
}

// listAll returns the secrets of the stores in order. If a store fails, it returns those of
// the others with the error. It calls cannot for stores that cannot list.
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

// showSecrets prints secrets, with the states of their stores, or, without any, the text
// none.
func showSecrets(a *app, all []found, states []storeJSON, none string) error {
	out := []secretJSON{}
	rows := [][]string{{"UUID", "USAGE", "FLAGS", "STORE"}}
	for _, f := range all {
		j := secretToJSON(f)
		out = append(out, j)
		var flags []string
		if j.Ephemeral {
			flags = append(flags, "ephemeral")
		}
		if j.Private {
			flags = append(flags, "private")
		}
		rows = append(rows, []string{dash(j.UUID), dash(strings.TrimSpace(j.UsageType + " " + j.Usage)), dash(strings.Join(flags, ",")), j.Store + lockNote(states, j.Store)})
	}
	text := table(rows)
	if len(all) == 0 {
		text = none
	}
	return a.show(text, struct {
		Secrets []secretJSON `json:"secrets"`
		Stores  []storeJSON  `json:"stores,omitempty"`
	}{out, states})
}

// lockNote returns what is to be known of a store that a passphrase protects, "" of others.
func lockNote(states []storeJSON, store string) string {
	for _, s := range states {
		switch {
		case s.Store != store:
		case s.State == storeLocked:
			return " (locked)"
		case s.State == storeUnlocked:
			return " (unlocked " + s.until() + ")"
		}
	}
	return ""
}
