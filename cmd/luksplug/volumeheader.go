package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// headerFlags are those of the commands for a volume's header.
type headerFlags struct {
	header, secret string
}

func (f *headerFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.header, "header", "", "the path of a LUKS header outside of the image")
	cmd.Flags().StringVar(&f.secret, "secret", "", "the secret that opens the header, by its uuid or TYPE:USAGE (default: the one of the key stores that has the image's path as its usage)")
}

// headerOptions are the flags of the commands that copy or move a header.
type headerOptions struct {
	headerFlags
	dryRun bool
}

func (o *headerOptions) register(cmd *cobra.Command) {
	o.headerFlags.register(cmd)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "check everything, say what would be done, and change nothing")
}

func newHeaderBackup(a *app) *cobra.Command {
	var f headerOptions
	cmd := &cobra.Command{
		Use:   "header-backup VOLUME FILE",
		Short: "Copy the LUKS header of a volume to a new file",
		Long: `header-backup copies the LUKS header of a volume to a new file, and opens the copy with
the volume's passphrase: that of --passphrase-file, of --secret, or of the secret in the
key stores that has the image's path as its usage. Without any of them the copy is not
opened, and a line says so. The volume may be attached.

VOLUME is as for 'volume info'. Keep the file away from the image: without its header a
volume is lost. A passphrase opens the volume with the copy also after it was changed or
removed.`,
		Example: `  luksplug volume header-backup /var/lib/images/vm1-vdb.img /srv/backup/vm1-vdb.header
  luksplug --passphrase-file vm1-vdb.key volume header-backup vdb.xml /srv/backup/vm1-vdb.header`,
		Args: arguments("VOLUME", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runHeaderBackup(cmd.Context(), a, f, args[0], args[1])
		},
	}
	f.register(cmd)
	return cmd
}

func runHeaderBackup(ctx context.Context, a *app, f headerOptions, name, to string) error {
	return f.with(ctx, a, name, func(ctx context.Context, v headerVolume) error {
		if v.passphrase == nil {
			if err := a.note("no key store has a secret with this volume's path as usage, so the copy is not opened: name one with --secret, or give --passphrase-file"); err != nil {
				return err
			}
		}
		h, err := volume.BackupHeader(ctx, volume.HeaderBackup{Path: v.path, Header: v.header, To: absolute(to), Passphrase: v.passphrase, DryRun: f.dryRun})
		if err != nil {
			return err
		}
		return a.show(fmt.Sprintf("header of %s %s to %s: %s, UUID %s\n", v.path, done(f.dryRun, "copied"), to, h, h.UUID),
			headerJSON{File: to, UUID: h.UUID, LUKS: h.Version, Opened: v.passphrase != nil, DryRun: f.dryRun})
	})
}

func newHeaderRestore(a *app) *cobra.Command {
	var f headerOptions
	cmd := &cobra.Command{
		Use:   "header-restore VOLUME FILE",
		Short: "Write a backup of its LUKS header to a volume",
		Long: `header-restore writes a backup of its LUKS header to a volume that no VM uses. It refuses
the header of another volume, as far as what is left of the header shows that, and a
backup that the volume's passphrase does not open: that of --passphrase-file, of --secret,
or of the secret in the key stores that has the image's path as its usage. What is in the
header's place is kept in a file beside the backup.

VOLUME is as for 'volume info'. To look at the data before, attach the volume with
--recover, which changes nothing.`,
		Example: `  luksplug volume header-restore /var/lib/images/vm1-vdb.img /srv/backup/vm1-vdb.header`,
		Args:    arguments("VOLUME", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runHeaderRestore(cmd.Context(), a, f, args[0], args[1])
		},
	}
	f.register(cmd)
	return cmd
}

func runHeaderRestore(ctx context.Context, a *app, f headerOptions, name, from string) error {
	return f.withUnused(ctx, a, name, func(ctx context.Context, v headerVolume) error {
		out, err := volume.RestoreHeader(ctx, volume.Restoring{Path: v.path, Header: v.header, Backup: absolute(from), Passphrase: v.passphrase, Attached: v.attached, DryRun: f.dryRun})
		if err != nil {
			return err
		}
		if out.Match == luks.MatchUnknown {
			if err := a.note("nothing was left of the old header that shows whether the backup is of this volume: look at its data before the guest writes to it"); err != nil {
				return err
			}
		}
		result := headerJSON{File: from, UUID: out.LUKS.UUID, LUKS: out.LUKS.Version, Opened: true, Replaced: out.Replaced, Match: string(out.Match)}
		if f.dryRun {
			result.Replaced, result.DryRun = "", true
			return a.show(fmt.Sprintf("header of %s would be restored: %s, UUID %s\n", v.path, out.LUKS, out.LUKS.UUID), result)
		}
		return a.show(fmt.Sprintf("header of %s restored: %s, UUID %s; what was there is in %s\n", v.path, out.LUKS, out.LUKS.UUID, out.Replaced), result)
	})
}

// headerJSON is the result for a header in JSON.
type headerJSON struct {
	File     string `json:"file"`
	UUID     string `json:"uuid"`
	LUKS     int    `json:"luks"`
	Opened   bool   `json:"opened"` // by a passphrase
	Replaced string `json:"replaced,omitempty"`
	Match    string `json:"match,omitempty"`   // of what was there with the backup
	DryRun   bool   `json:"dry_run,omitempty"` // nothing was written
}

// headerVolume is the volume on whose header a command works.
type headerVolume struct {
	path, header string
	passphrase   *secrets.Secret // nil if none is known
	attached     []hotplug.Use   // on this host
}

// with calls do with the volume that an argument names, within the time limit of a command. The passphrase is wiped after it.
func (f headerFlags) with(ctx context.Context, a *app, name string, do func(context.Context, headerVolume) error) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	var v headerVolume
	var err error
	if v.path, v.header, err = f.volume(ctx, a, name); err != nil {
		return err
	}
	if v.passphrase, err = f.passphrase(ctx, a, v.path); err != nil {
		return err
	}
	if v.passphrase != nil {
		defer v.passphrase.Wipe()
	}
	return do(ctx, v)
}

// withUnused is with for a command that changes the header: no VM may have the volume, and a passphrase has to open it.
func (f headerFlags) withUnused(ctx context.Context, a *app, name string, do func(context.Context, headerVolume) error) error {
	return f.with(ctx, a, name, func(ctx context.Context, v headerVolume) (err error) {
		if v.passphrase == nil {
			return &usageError{errors.New("no key store has a secret with this volume's path as usage: name the secret that opens the header with --secret, or give --passphrase-file")}
		}
		if v.attached, err = a.uses(); err != nil {
			return err
		}
		return do(ctx, v)
	})
}

// volume returns the image and the header of the volume that an argument names.
func (f headerFlags) volume(ctx context.Context, a *app, name string) (path, header string, err error) {
	path, header, err = volumeName(ctx, a, name)
	switch {
	case err != nil:
		return "", "", err
	case header != "" && f.header != "":
		return "", "", &usageError{errors.New("--header and VOLUME both name a header")}
	case header == "":
		header = f.header
	}
	return path, header, nil
}

// passphrase returns the passphrase of the volume, nil if none is known.
func (f headerFlags) passphrase(ctx context.Context, a *app, path string) (*secrets.Secret, error) {
	given, _, err := givenPassphrase(ctx, a, f.secret)
	if err != nil || given != nil {
		return given, err
	}
	named, err := secretsOf(ctx, a, path)
	if err != nil || len(named) == 0 {
		return nil, err
	}
	return named[0].store.Lookup(ctx, named[0].document.Reference())
}
