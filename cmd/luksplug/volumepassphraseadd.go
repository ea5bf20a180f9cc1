package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
)

func newPassphraseAdd(a *app) *cobra.Command {
	var f passphraseFlags
	cmd := &cobra.Command{
		Use:   "add VOLUME",
		Short: "Give a volume a further passphrase",
		Long: `add puts a further passphrase into a spare key slot of a volume. It is random, and kept as
a secret of its own in the first key store that can keep it; that of
--new-passphrase-file is yours, and kept in no store. The volume is opened by
--passphrase-file, by --secret, or by the secret in the key stores that has the image's
path as its usage.

VOLUME is as for 'volume info', and may be attached. Without a spare key slot nothing is
changed.`,
		Example: `  luksplug volume passphrase add /var/lib/images/vm1-vdb.img --new-passphrase-file recovery.key
  luksplug --keystore dir:/srv/escrow --passphrase-file vm1-vdb.key volume passphrase add vdb.xml`,
		Args: arguments("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error { return runPassphraseAdd(cmd.Context(), a, f, args[0]) },
	}
	f.register(cmd)
	return cmd
}

func runPassphraseAdd(ctx context.Context, a *app, f passphraseFlags, name string) error {
	if err := f.checkInput(a); err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	l, err := f.location(ctx, a, name)
	if err != nil {
		return err
	}
	r := volume.Addition{Location: l, Unlock: f.unlockTime, DryRun: f.dryRun, Secret: secrets.Document{Description: "a further passphrase of " + l.Path}}
	if r.Known, err = f.known(ctx, a, l.Path); err != nil {
		return err
	}
	defer r.Known.Wipe()
	if r.New, err = f.fresh(ctx, a); err != nil {
		return err
	}
	defer r.New.Wipe()
	keys := volume.Keys(a.define)
	if r.New != nil {
		keys = nil
	}
	out, err := volume.AddPassphrase(ctx, r, keys)
	if err != nil {
		return err
	}
	result := addedJSON{Path: l.Path, Header: l.Header, Slot: out.Slot, Already: out.Already, DryRun: f.dryRun}
	text := fmt.Sprintf("a passphrase added to %s in key slot %d", l.Path, out.Slot)
	switch {
	case out.Already:
		text = fmt.Sprintf("the passphrase opens key slot %d of %s already", out.Slot, l.Path)
	case f.dryRun:
		text = fmt.Sprintf("a passphrase would be added to %s in key slot %d", l.Path, out.Slot)
	case out.Stored != nil:
		a.settleAfter(ctx, out.Stored.Store)
		result.Secret, result.KeyStore = out.Stored.Document.UUID.String(), out.Stored.Store.String()
		text += fmt.Sprintf(": the secret %s in %s", result.Secret, result.KeyStore)
	}
	return a.show(text+"\n", result)
}

// addedJSON is an added passphrase in JSON.
type addedJSON struct {
	Path     string `json:"path"`
	Header   string `json:"header,omitempty"`
	Slot     int    `json:"slot"`
	Already  bool   `json:"already"`
	DryRun   bool   `json:"dry_run"`
	Secret   string `json:"secret,omitempty"`
	KeyStore string `json:"keystore,omitempty"`
}
