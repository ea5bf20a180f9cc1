package main

import (
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
)

// completionLimit is how long a shell waits for completions.
const completionLimit = time.Second

// completeNames has shells complete the domains and secrets that arguments and flags name.
func completeNames(a *app, root *cobra.Command) {
	domains := func(cmd *cobra.Command) []string { return domainNames(cmd, a) }
	all := func(cmd *cobra.Command) []string { return secretNames(cmd, a, "") }
	// It fails only for a flag that does not exist.
	_ = root.RegisterFlagCompletionFunc("domain", completed(domains, 0))
	walk(root, func(cmd *cobra.Command) {
		_, arguments, _ := strings.Cut(cmd.Use, " ")
		first, _, _ := strings.Cut(arguments, " ")
		switch first {
		case "DOMAIN":
			cmd.ValidArgsFunction = completed(domains, 1)
		case "SECRET":
			cmd.ValidArgsFunction = completed(all, 1)
			if strings.HasSuffix(arguments, " FILE") {
				cmd.ValidArgsFunction = beforeFile(cmd.ValidArgsFunction)
			}
		case "[STORE]":
			cmd.ValidArgsFunction = completed(func(cmd *cobra.Command) []string { return storeCompletions(cmd, a) }, 1)
		}
		for _, flag := range []string{"secret", "backing-secret"} {
			if cmd.Flags().Lookup(flag) == nil {
				continue
			}
			_ = cmd.RegisterFlagCompletionFunc(flag, completed(all, 0))
		}
		if cmd.Flags().Lookup("tls-secret") != nil {
			_ = cmd.RegisterFlagCompletionFunc("tls-secret", completed(func(cmd *cobra.Command) []string { return secretNames(cmd, a, secrets.UsageTLS) }, 0))
		}
	})
}

// completed returns the completion of a flag, or, with arguments, of the first argument.
// A name with control characters is not offered.
func completed(names func(*cobra.Command) []string, arguments int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if arguments > 0 && len(args) >= arguments {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, name := range names(cmd) {
			word, _, _ := strings.Cut(name, "\t")
			if word != "" && printable.Line(word) == word && !strings.ContainsAny(word, "\n\t") {
				out = append(out, name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// beforeFile is the completion of a first argument that a file's name follows.
func beforeFile(first cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return first(cmd, args, word)
	}
}

// domainNames returns the domains of the libvirt that the flags name, none if it does not
// answer quickly.
func domainNames(cmd *cobra.Command, a *app) []string {
	if a.flags.complete(cmd) != nil || a.setUp(cmd) != nil {
		return nil
	}
	ctx, cancel := ending.After(cmd.Context(), completionLimit)
	defer cancel()
	uri, err := a.libvirtURI()
	if err != nil {
		return nil
	}
	names, _ := libvirtvm.Names(ctx, uri.text) // without an answer there are none
	return names
}

// storeCompletions returns the key stores that can be unlocked, with their states as
// descriptions.
func storeCompletions(cmd *cobra.Command, a *app) []string {
	if a.flags.complete(cmd) != nil || a.setUp(cmd) != nil {
		return nil
	}
	ctx, cancel := ending.After(cmd.Context(), completionLimit)
	defer cancel()
	stores, err := openStores(a, a.storeOptions())
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range stores {
		if state, _ := stateOf(ctx, s); state.State != storeOther { // an error is the state unknown
			out = append(out, s.String()+"\t"+state.State)
		}
	}
	return out
}

// secretNames returns the secrets of a type, "" for all, with their usages as descriptions.
// Nothing is asked for: a store that needs a passphrase to list its secrets offers none.
func secretNames(cmd *cobra.Command, a *app, usage secrets.UsageType) []string {
	if a.flags.complete(cmd) != nil || a.setUp(cmd) != nil {
		return nil
	}
	ctx, cancel := ending.After(cmd.Context(), completionLimit)
	defer cancel()
	options := a.storeOptions()
	options.Prompt = nil
	options.ReadPassphrase = func(string) (*secrets.Secret, error) {
		return nil, errors.New("a completion reads no passphrase")
	}
	stores, err := openStores(a, options)
	if err != nil {
		return nil
	}
	all, _ := listAll(ctx, stores, func(secrets.Store) {}) // what cannot be listed is not offered
	var out []string
	for _, f := range all {
		d := f.document
		if usage != "" && d.UsageType != usage {
			continue
		}
		name, what := string(d.UsageType)+":"+d.Usage, ""
		if d.UUID != uuid.Nil {
			name, what = d.UUID.String(), strings.TrimPrefix(name, ":")
		}
		if what != "" {
			name += "\t" + printable.Line(what)
		}
		out = append(out, name)
	}
	return out
}
