package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksplug/luksplug/internal/similar"
)

// closest returns ": did you mean WORD?" for the word that is most like a misspelt one, ""
// if none is.
func closest(misspelt string, words []string) string {
	best, least := "", min(2, len(misspelt)/2)+1
	for _, w := range words {
		if d := similar.Distance(misspelt, w); d < least {
			best, least = w, d
		}
	}
	return didYouMean(best)
}

func didYouMean(word string) string {
	if word == "" {
		return ""
	}
	return ": did you mean " + word + "?"
}

// otherNames are names that other programs have for a command, by its path.
var otherNames = map[string][]string{
	"attach":          {"attach-disk", "attach-device", "plug", "add", "open"},
	"detach":          {"detach-disk", "detach-device", "unplug", "close", "remove", "rm"},
	"list":            {"ls", "domblklist", "status", "show"},
	"secret define":   {"add", "create", "new"},
	"secret undefine": {"delete", "remove", "rm"},
	"secret dumpxml":  {"show", "info", "dump"},
	"secret list":     {"ls"},
	"secret prune":    {"clean", "gc", "purge"},
	"hook install":    {"add"},
	"hook uninstall":  {"remove", "rm"},
	"hook check":      {"status", "verify"},
}

// commandLike returns ": did you mean COMMAND?" for an unknown command below parent: one that is
// misspelt, has another name elsewhere, or belongs to another command.
func commandLike(parent *cobra.Command, word string) string {
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if text := closest(word, names); text != "" {
		return text
	}
	best := ""
	walk(parent.Root(), func(c *cobra.Command) {
		path := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), c.Root().Name()), " ")
		same := c.Name() == word || strings.ReplaceAll(path, " ", "-") == word || slices.Contains(otherNames[path], word)
		// Below the parent comes first.
		if c.IsAvailableCommand() && same && path != "" && (best == "" || c.Parent() == parent) {
			best = path
		}
	})
	if best != "" {
		return didYouMean(parent.Root().Name() + " " + best)
	}
	for _, name := range names {
		if len(word) > 1 && strings.HasPrefix(name, word) {
			return didYouMean(name)
		}
	}
	return ""
}

// walk calls f for each command below cmd.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		f(c)
		walk(c, f)
	}
}

// unknownCommand is the error for a word that names no command.
func unknownCommand(cmd *cobra.Command, word string) error {
	return fmt.Errorf("unknown command %q for %q%s", word, cmd.CommandPath(), commandLike(cmd, word))
}

// wanted is what the value of a flag of that type is, for the types whose errors package pflag
// has from package strconv.
var wanted = map[string]string{
	"bool": "true or false", "count": "a number, or give the flag alone", "int": "a number", "uint": "a number, which is not negative",
}

// unknownFlag adds the flag that was probably meant to an error of package pflag, or what the
// value of a flag is.
func unknownFlag(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) && wanted[invalid.GetFlag().Value.Type()] != "" {
		f := invalid.GetFlag()
		return fmt.Errorf("invalid value %q of --%s: give %s", invalid.GetValue(), f.Name, wanted[f.Value.Type()])
	}
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || missing.GetSpecifiedShortnames() != "" {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	text := closest(missing.GetSpecifiedName(), names)
	if text == "" {
		text = flagElsewhere(cmd.Root(), missing.GetSpecifiedName())
	}
	return fmt.Errorf("%w%s", err, strings.Replace(text, "mean ", "mean --", 1))
}

// flagElsewhere says which commands have a flag; "" for none.
func flagElsewhere(root *cobra.Command, name string) string {
	var paths []string
	walk(root, func(c *cobra.Command) {
		if f := c.LocalNonPersistentFlags().Lookup(name); f != nil && !f.Hidden && c.IsAvailableCommand() {
			paths = append(paths, strings.TrimPrefix(c.CommandPath(), root.Name()+" "))
		}
	})
	if len(paths) == 0 {
		return ""
	}
	return ": it is a flag of " + strings.Join(paths, " and ") + ", and follows it"
}

// onlyWithCommand makes a command that has no effect without a subcommand an error there.
func onlyWithCommand(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return needsCommand(cmd, args) }
	return cmd
}

// needsCommand is the error for a command line without a command.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{unknownCommand(cmd, args[0])}
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	text := "no command is given"
	if cmd.HasParent() {
		text = cmd.Name() + " needs a command"
	}
	swallowed := ""
	cmd.Flags().Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			if slices.Contains(names, value) {
				swallowed = fmt.Sprintf("%s is the value of --%s there, ", value, f.Name)
			}
		}
	})
	return &usageError{fmt.Errorf("%s: %sgive one of %s", text, swallowed, strings.Join(names, ", "))}
}
