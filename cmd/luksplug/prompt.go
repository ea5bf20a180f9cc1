package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// prompter returns the function that prompts at the terminal for the passphrase of a key
// store, nil if there is no terminal.
func prompter() func(context.Context, string) (*secrets.Secret, error) {
	// Standard input may be a document or a value.
	open := func() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) }
	tty, err := open()
	if err != nil {
		return nil
	}
	_ = tty.Close() // nothing is lost
	return func(ctx context.Context, question string) (*secrets.Secret, error) {
		tty, err := open()
		if err != nil {
			return nil, err
		}
		defer func() { _ = tty.Close() }() // nothing is lost
		return passphrase.Ask(ctx, tty, question)
	}
}

// askTwice asks for a new secret twice, without showing it.
func askTwice(ctx context.Context, tty *os.File, question string) (*secrets.Secret, error) {
	first, err := passphrase.Ask(ctx, tty, question)
	if err != nil {
		return nil, err
	}
	second, err := passphrase.Ask(ctx, tty, question+", again")
	if err != nil {
		first.Wipe()
		return nil, err
	}
	defer second.Wipe()
	if !first.Equal(second) {
		first.Wipe()
		return nil, errors.New("the two values are not the same: nothing was changed")
	}
	return first, nil
}

// confirm asks at the terminal whether to do what, and returns an error unless the answer
// is yes.
func confirm(ctx context.Context, a *app, what string) error {
	if !isTerminal(a.in) {
		return &usageError{errors.New("nothing was changed: there is no terminal to confirm at, so give --yes")}
	}
	if _, err := fmt.Fprintf(a.err, "luksplug: %s? [y/N] ", printable.Line(what)); err != nil {
		return err
	}
	var answer string
	_, err := fmt.Fscanln(a.reader(ctx), &answer)
	if is[*fsutil.WaitError](err) || err != nil && !errors.Is(err, io.EOF) && answer != "" {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
