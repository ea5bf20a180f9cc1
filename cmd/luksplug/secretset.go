package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// valueFlag is the flag for where a value is read from.
const valueFlag = "file"

func newSecretSet(a *app) *cobra.Command {
	var file string
	var inBase64 bool
	cmd := &cobra.Command{
		Use:   "set-value SECRET",
		Short: "Give a secret its value",
		Long: `set-value reads a value from --file, else from standard input, and makes it the
secret's. It is taken byte for byte, a newline at its end included. On a terminal
it is asked for twice and not shown. It is never an argument: those are there for
everybody to see.`,
		Example: `  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f --file vm1-vdb.key
  head -c 32 /dev/urandom | luksplug secret set-value volume:/var/lib/images/vm1.img`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("set-value takes one argument, SECRET: the value is read from --file, standard input or the terminal, as everybody can see arguments")
			}
			return argument("SECRET")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSecretSet(cmd.Context(), args[0], file, inBase64)
		},
	}
	cmd.Flags().StringVar(&file, valueFlag, "", "the file of the value, - for standard input, or fd:N")
	cmd.Flags().BoolVar(&inBase64, "base64", false, "the value is given in base64")
	return cmd
}

func (a *app) runSecretSet(ctx context.Context, name, file string, inBase64 bool) error {
	var f found
	var keeper secrets.Keeper
	// Before anybody types, for which there is all the time.
	err := a.withSecret(ctx, name, func(_ context.Context, secret found) (err error) {
		f = secret
		keeper, err = f.keeper()
		return err
	})
	if err != nil {
		return err
	}
	value, err := a.readValue(ctx, file, inBase64)
	if err != nil {
		return err
	}
	defer value.Wipe()
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	if err := keeper.Set(ctx, f.document.Reference(), value); err != nil {
		return err
	}
	if passphrase.EndsInNewline(value) {
		a.log.Warn("the value ends in a newline, which counts as part of it: printf writes one without")
	}
	if a.flags.output == "json" {
		return a.printJSON(secretToJSON(f))
	}
	return a.print(fmt.Sprintf("value of the secret with %s set in %s\n", f.document, f.store))
}

// readValue reads a value from where the user says, or from standard input: a
// terminal is asked.
func (a *app) readValue(ctx context.Context, file string, inBase64 bool) (*secrets.Secret, error) {
	value, err := a.readStored(ctx, file)
	if err != nil || !inBase64 {
		return value, err
	}
	defer value.Wipe()
	var decoded *secrets.Secret
	err = value.Use(func(text []byte) error {
		out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Decode(out, text)
		if err != nil || n == 0 {
			clear(out)
			return &usageError{errors.New("the value is not base64, or empty")}
		}
		decoded = secrets.New(out[:n])
		return nil
	})
	return decoded, err
}

func (a *app) readStored(ctx context.Context, file string) (*secrets.Secret, error) {
	if in, ok := a.in.(*os.File); ok && file == "" && term.IsTerminal(int(in.Fd())) {
		return askTwice(ctx, in, "value of the secret")
	}
	if file == "" {
		file = "-"
	}
	return a.readPassphrase(file)
}
