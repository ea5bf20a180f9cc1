package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecretList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the secrets of the key stores",
		Long:    "list shows the secrets of the key stores, in the order of the stores. It reads no values.",
		Example: "  luksplug secret list\n  luksplug secret --keystore dir:/run/keys list --output json",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSecretList(cmd.Context(), a) },
	}
}

func runSecretList(ctx context.Context, a *app) error {
	return withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		all, err := listAll(ctx, stores, func(s secrets.Store) { a.log.Warnf("key store %s cannot list its secrets", s) })
		if len(all) == 0 && err != nil {
			return err
		}
		return errors.Join(showSecrets(a, all), err)
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

func showSecrets(a *app, all []found) error {
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
		rows = append(rows, []string{dash(j.UUID), dash(strings.TrimSpace(j.UsageType + " " + j.Usage)), dash(strings.Join(flags, ",")), j.Store})
	}
	text := table(rows)
	if len(all) == 0 {
		text = "no secret is defined\n"
	}
	return a.show(text, struct {
		Secrets []secretJSON `json:"secrets"`
	}{out})
}
