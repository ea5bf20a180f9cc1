package main

import (
	"context"
	"encoding/base64"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
)

func newSecretGet(a *app) *cobra.Command {
	inBase64 := false
	cmd := &cobra.Command{
		Use:   "get-value SECRET",
		Short: "Print the value of a secret",
		Long: `get-value writes the bytes of the value to standard output, without adding a newline.
It refuses a private secret, which attach may use, and an ephemeral one if standard
output is a file on a disk.`,
		Example: `  luksplug secret get-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f > vm1-vdb.key
  luksplug secret get-value --base64 volume:/var/lib/images/vm1.img`,
		Args: arguments("SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretGet(cmd.Context(), a, args[0], inBase64)
		},
	}
	cmd.Flags().BoolVar(&inBase64, "base64", false, "encode the value in base64 and add a newline")
	return cmd
}

func runSecretGet(ctx context.Context, a *app, name string, inBase64 bool) error {
	return withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		value, _, err := lookUp(ctx, stores, name, standardOutput(a))
		if err != nil {
			return err
		}
		defer value.Wipe()
		return value.Use(func(b []byte) error {
			text := b
			if before, after := frame(a, inBase64); before != "" || after != "" {
				// With room for all: a buffer that grows would leave a copy behind.
				text = make([]byte, 0, len(before)+base64.StdEncoding.EncodedLen(len(b))+len(after))
				text = append(base64.StdEncoding.AppendEncode(append(text, before...), b), after...)
				defer clear(text)
			}
			_, err := raw(a.out).Write(text)
			return err
		})
	})
}

// frame returns what is written before and after the value in base64; both are "" for the
// value as it is. encoding/json would leave copies of the value.
func frame(a *app, inBase64 bool) (before, after string) {
	switch {
	case a.flags.output == "json":
		return "{\n  \"base64\": \"", "\"\n}\n"
	case inBase64:
		return "", "\n"
	}
	return "", ""
}

// standardOutput is the destination of a value that is printed.
func standardOutput(a *app) secrets.Destination {
	to := secrets.Destination{Name: "standard output", Node: secrets.ThisNode, Reader: secrets.Caller, Medium: secrets.Memory}
	f, ok := raw(a.out).(*os.File)
	if !ok {
		return to
	}
	if info, err := f.Stat(); err != nil || (info.Mode().IsRegular() || isBlockDevice(info)) && !fsutil.FileInMemory(f) {
		to.Medium = secrets.Lasting
	}
	return to
}

func isBlockDevice(info fs.FileInfo) bool {
	return info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// lookUp returns the value of the secret that an argument names, if it may go to the
// destination, and its document.
func lookUp(ctx context.Context, stores []secrets.Store, arg string, to secrets.Destination) (*secrets.Secret, secrets.Document, error) {
	ref, err := parseSecret(arg)
	if err != nil {
		return nil, secrets.Document{}, err
	}
	document := ref.Undocumented()
	value, err := firstOf(stores, ref, func(store secrets.Store) (*secrets.Secret, error) {
		ref := ref
		if lister, ok := store.(secrets.Lister); ok {
			d, err := find(ctx, lister, ref)
			if err != nil {
				return nil, err
			}
			document, ref = d, d.Reference()
		}
		return secrets.BindDestination(store, to).Lookup(ctx, ref)
	})
	return value, document, err
}
