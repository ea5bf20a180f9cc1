package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagGroups are the titles and names of the flags that all commands share, in the order of
// the help.
var flagGroups = []struct{ title, names string }{
	{"The VM", "qmp qemu-pid domain connect"},
	{"Secrets", "passphrase-file keystore"},
	{"Output", "output verbose log-format trace"},
	{"Limits and configuration", "timeout config"},
}

// groupFlags has the help of every command show its own flags, and apart from them, in
// groups, those that all commands share.
func groupFlags(root *cobra.Command) {
	before, rest, found := strings.Cut(root.UsageTemplate(), "{{if .HasAvailableLocalFlags}}")
	_, after, ends := strings.Cut(rest, "{{if .HasHelpSubCommands}}")
	if !found || !ends {
		return // a template of a later cobra, which shows the flags in its own way
	}
	var b strings.Builder
	b.WriteString("\n\nFlags:\n{{.LocalNonPersistentFlags.FlagUsages | trimTrailingWhitespaces}}")
	for _, g := range flagGroups {
		set := pflag.NewFlagSet(g.title, pflag.ContinueOnError)
		set.SortFlags = false
		for _, name := range strings.Fields(g.names) {
			set.AddFlag(root.PersistentFlags().Lookup(name))
		}
		// The texts have no braces.
		b.WriteString("\n\n" + g.title + ", of all commands:\n" + strings.TrimRight(set.FlagUsages(), "\n"))
	}
	root.SetUsageTemplate(before + b.String() + "{{if .HasHelpSubCommands}}" + after)
}
