package main

import (
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// inherit takes what the caller left open, first of all: before it cannot be told
// from our own any more. What is wrong with it is said when it is needed.
func (a *app) inherit(cmd *cobra.Command) {
	sources := []string{a.flags.passphrase}
	if file := cmd.Flags().Lookup(valueFlag); file != nil {
		sources = append(sources, file.Value.String())
	}
	for _, uri := range a.flags.keystores {
		_, query, _ := strings.Cut(uri, "?")
		// What is wrong with it is said when the store is opened.
		parameters, _ := url.ParseQuery(query)
		for _, name := range []string{"passphrase-file", "token-file", "password-file"} {
			sources = append(sources, parameters.Get(name))
		}
	}
	a.inherited = map[string]*os.File{}
	for _, source := range sources {
		f, err := passphrase.Inherited(source)
		if err != nil || f == nil || a.inherited[source] != nil {
			continue
		}
		a.inherited[source] = f
		a.closers = append(a.closers, func() { _ = f.Close() }) // only read
	}
}

// readPassphrase reads a passphrase, or a value, from where the user says.
func (a *app) readPassphrase(source string) (*secrets.Secret, error) {
	if f := a.inherited[source]; f != nil {
		return passphrase.Read(f, source)
	}
	if source == "-" {
		return passphrase.Open(source, a.in)
	}
	return passphrase.Open(source, nil)
}
