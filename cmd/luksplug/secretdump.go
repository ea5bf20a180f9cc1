package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

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
				return a.show(printableXML(string(f.document.XML())), secretToJSON(f))
			})
		},
	}
}

// printableXML returns a document with references in place of characters that are not
// printable, such as those that change the direction of text. It is the same document.
func printableXML(document string) string {
	var b strings.Builder
	for _, r := range document {
		if r == '\n' || strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "&#x%x;", r)
		}
	}
	return b.String()
}
