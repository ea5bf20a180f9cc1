package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecretList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the secrets of the key stores",
		Long:    "list shows what the key stores hold, in their order, without reading any value.",
		Example: "  luksplug secret list\n  luksplug secret --keystore dir:/run/keys list --output json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runSecretList(cmd.Context()) },
	}
}

func (a *app) runSecretList(ctx context.Context) error {
	return a.withStores(ctx, func(ctx context.Context, stores []secrets.Store) error {
		all, err := listAll(ctx, stores, func(s secrets.Store) { a.log.Warnf("key store %s cannot say what it holds", s) })
		if len(all) == 0 && err != nil {
			return err
		}
		// What can be read is worth seeing where something else cannot.
		return errors.Join(a.printSecrets(all), err)
	})
}

// listAll returns the secrets of the stores in order. cannot is told of stores
// that do not list. The error is that of the stores that could not be asked.
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

func (a *app) printSecrets(all []found) error {
	if a.flags.output == "json" {
		out := []secretJSON{}
		for _, f := range all {
			out = append(out, secretToJSON(f))
		}
		return a.printJSON(struct {
			Secrets []secretJSON `json:"secrets"`
		}{out})
	}
	if len(all) == 0 {
		return a.print("no secret is defined\n")
	}
	rows := [][]string{{"UUID", "USAGE", "FLAGS", "STORE"}}
	for _, f := range all {
		j := secretToJSON(f)
		var flags []string
		if j.Ephemeral {
			flags = append(flags, "ephemeral")
		}
		if j.Private {
			flags = append(flags, "private")
		}
		rows = append(rows, []string{dash(j.UUID), dash(strings.TrimSpace(j.UsageType + " " + printable(j.Usage))), dash(strings.Join(flags, ",")), j.Store})
	}
	return a.print(table(rows))
}

// printable keeps a text to one line and one column.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` && strings.ContainsAny(s, "\n\t") {
		return q
	}
	return s
}
