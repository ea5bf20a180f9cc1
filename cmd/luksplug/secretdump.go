package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newSecretDump(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "dumpxml SECRET",
		Short:   "Print the <secret> document of a secret",
		Long:    "dumpxml prints the document of a secret. The value is not part of it.",
		Example: "  luksplug secret dumpxml 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f",
		Args:    arguments("SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSecret(cmd.Context(), a, args[0], func(_ context.Context, f found) error {
				return a.show(string(f.document.XML()), secretToJSON(f))
			})
		},
	}
}
