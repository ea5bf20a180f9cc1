package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newSecretDump(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "dumpxml SECRET",
		Short:   "Print the <secret> document of a secret",
		Long:    "dumpxml prints a secret's document, which holds no value.",
		Example: "  luksplug secret dumpxml 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f",
		Args:    argument("SECRET"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runSecretDump(cmd.Context(), args[0]) },
	}
}

func (a *app) runSecretDump(ctx context.Context, name string) error {
	return a.withSecret(ctx, name, func(_ context.Context, f found) error {
		if a.flags.output == "json" {
			return a.printJSON(secretToJSON(f))
		}
		return a.print(string(f.document.XML()))
	})
}
