package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
)

// valueFlag is the flag that names the source of a value.
const valueFlag = "file"

func newSecretSet(a *app) *cobra.Command {
	var o setOptions
	cmd := &cobra.Command{
		Use:   "set-value SECRET",
		Short: "Give a secret its value",
		Long: `set-value reads the value of a secret from --file, else from standard input. Every
byte counts, a newline at the end as well. On a terminal, set-value asks for the
value twice without showing it. The value cannot be an argument, because other users
of the host can see arguments.

The value of a secret that is in use (see secret undefine) is not replaced by one that
does not open the volumes: the present one could be the only one that does. Change
the passphrase of the volume first, or use --force.`,
		Example: `  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f --file vm1-vdb.key
  head -c 32 /dev/urandom | luksplug secret set-value volume:/var/lib/images/vm1.img`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("set-value takes one argument, SECRET: the value is read from --file, standard input or the terminal, because other users can see arguments")
			}
			return arguments("SECRET")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretSet(cmd.Context(), a, args[0], o)
		},
	}
	cmd.Flags().StringVar(&o.file, valueFlag, "", "the value: a file, - for standard input, or fd:N")
	cmd.Flags().BoolVar(&o.inBase64, "base64", false, "decode the value from base64")
	cmd.Flags().BoolVar(&o.force, "force", false, "replace the value even if the secret is in use, and the new value does not open the volume")
	return cmd
}

// setOptions are the flags of secret set-value.
type setOptions struct {
	file            string
	inBase64, force bool
}

func runSecretSet(ctx context.Context, a *app, name string, o setOptions) error {
	var f found
	var keeper secrets.Keeper
	// Typing has no time limit, and starts only if the secret exists.
	err := withSecret(ctx, a, name, func(_ context.Context, secret found) (err error) {
		f = secret
		keeper, err = f.keeper()
		return err
	})
	if err != nil {
		return err
	}
	value, err := readValue(ctx, a, o.file, o.inBase64)
	if err != nil {
		return err
	}
	defer value.Wipe()
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	if !o.force {
		if err := checkReplaced(ctx, a, f, value); err != nil {
			return err
		}
	}
	if err := keeper.Set(ctx, f.document.Reference(), value); err != nil {
		return err
	}
	a.settleAfter(ctx, keeper)
	if stray := value.Stray(); stray != "" {
		a.log.Warnf("the value %s, which is part of it: printf %%s writes a value without", stray)
	}
	return a.show(printable.Line(fmt.Sprintf("value of the secret with %s set in %s", f.document, f.store))+"\n", secretToJSON(f))
}

// readValue reads a value from file, or, for "", from standard input.
func readValue(ctx context.Context, a *app, file string, inBase64 bool) (*secrets.Secret, error) {
	value, err := readBytes(ctx, a, file)
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

func readBytes(ctx context.Context, a *app, file string) (*secrets.Secret, error) {
	if in, ok := a.in.(*os.File); ok && (file == "" || file == "-") && isTerminal(in) {
		return askTwice(ctx, in, "value of the secret")
	}
	return a.readPassphrase(ctx, cmp.Or(file, "-"))
}
