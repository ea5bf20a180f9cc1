package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/volume"
)

// removeOptions are the flags of volume passphrase remove.
type removeOptions struct {
	headerFlags
	oldSecret, oldFile string
	slot               int
	dryRun             bool
}

func newPassphraseRemove(a *app) *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:   "remove VOLUME",
		Short: "Remove a passphrase from a volume",
		Long: `remove wipes the key slot of a passphrase. Which one is said by --old-secret, a secret that
is removed from its key store as well, by --old-passphrase-file, or by --slot, whose
passphrase may be unknown. Another passphrase has to open the volume by another key
slot, and stays: that of --passphrase-file, of --secret, or of the secret in the key
stores that has the image's path as its usage.

VOLUME is as for 'volume info', and may be attached. A backup of the header, a snapshot
or an SSD may still hold the key slot: a passphrase that others know is safe only after
the volume is encrypted anew.`,
		Example: `  luksplug volume passphrase remove /var/lib/images/vm1-vdb.img --old-passphrase-file recovery.key
  luksplug volume passphrase remove vdb.xml --slot 1 --dry-run`,
		Args: arguments("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPassphraseRemove(cmd.Context(), a, o, args[0])
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&o.oldSecret, "old-secret", "", "the secret with the passphrase to be removed, by its uuid or TYPE:USAGE")
	cmd.Flags().StringVar(&o.oldFile, oldPassphraseFlag, "", "the passphrase to be removed: a file, - for standard input, or fd:N")
	cmd.Flags().IntVar(&o.slot, "slot", -1, "the number of the key slot to be wiped")
	registerDryRun(cmd, &o.dryRun)
	return cmd
}

func (o *removeOptions) check(a *app) error {
	ways := 0
	for _, given := range []bool{o.oldSecret != "", o.oldFile != "", o.slot >= 0} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return &usageError{errors.New("remove needs one of --old-secret, --old-passphrase-file and --slot: the passphrase to be removed")}
	case o.oldFile == "-" && a.flags.passphrase == "-":
		return &usageError{errors.New("--passphrase-file and --old-passphrase-file cannot both be standard input")}
	}
	return nil
}

func runPassphraseRemove(ctx context.Context, a *app, o removeOptions, name string) error {
	if err := o.check(a); err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	l, err := o.location(ctx, a, name)
	if err != nil {
		return err
	}
	r := volume.Removal{Location: l, DryRun: o.dryRun}
	if r.Known, err = o.known(ctx, a, l.Path); err != nil {
		return err
	}
	defer r.Known.Wipe()
	switch {
	case o.oldSecret != "":
		err = withSecret(ctx, a, o.oldSecret, func(ctx context.Context, f found) (err error) {
			r.Stored, r.Uses, err = storedOf(ctx, a, f)
			return err
		})
	case o.oldFile != "":
		r.Passphrase, err = a.readPassphrase(ctx, o.oldFile)
	default:
		r.Slot = &o.slot
	}
	if err != nil {
		return err
	}
	defer r.Passphrase.Wipe()
	out, err := volume.RemovePassphrase(ctx, r)
	if err != nil {
		return err
	}
	result := removedJSON{Path: l.Path, Header: l.Header, Wiped: append([]int{}, out.Slots...), Kept: out.Kept, DryRun: o.dryRun}
	text := fmt.Sprintf("%s of %s wiped; key slot %d stays", slotsText(out.Slots), l.Path, out.Kept)
	if o.dryRun {
		text = fmt.Sprintf("%s of %s would be wiped; key slot %d stays", slotsText(out.Slots), l.Path, out.Kept)
	}
	if out.Secret {
		result.Secret, result.KeyStore = r.Stored.Document.UUID.String(), r.Stored.Store.String()
		text += fmt.Sprintf("; the secret %s removed from %s", result.Secret, result.KeyStore)
	}
	return a.show(text+"\n", result)
}

// removedJSON is a removed passphrase in JSON.
type removedJSON struct {
	Path     string `json:"path"`
	Header   string `json:"header,omitempty"`
	Wiped    []int  `json:"wiped"`
	Kept     int    `json:"kept"`
	DryRun   bool   `json:"dry_run"`
	Secret   string `json:"secret,omitempty"`
	KeyStore string `json:"keystore,omitempty"`
}
