package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/printable"
)

// changeOptions are the flags of volume passphrase change.
type changeOptions struct {
	passphraseFlags
	phase string
	all   bool
	pools []string
}

func newPassphraseChange(a *app) *cobra.Command {
	var o changeOptions
	cmd := &cobra.Command{
		Use:   "change VOLUME...",
		Short: "Replace the passphrase of volumes",
		Long: `change gives a volume a new passphrase, and removes the old one. The passphrase is that of
--secret, or of the secret in the key stores that has the image's path as its usage: its
value is replaced, and its uuid stays, so that disks that name it stay valid. The new
passphrase is random, or that of --new-passphrase-file. With --passphrase-file the old
passphrase is in no key store, and --new-passphrase-file is needed.

The new passphrase is kept beside the old one, added to a spare key slot, read back and
opened, before it replaces the old one in the store, and the old key slot is wiped. After
a crash or a failure, the same command finishes.

A secret that several volumes use needs --all: the volumes of its document, of attached
disks of this host and of libvirt's documents, those given, and those in directories
given by --pool. All get the new passphrase before the secret does.

For a passphrase in a store that another program changes: --phase stage adds the new
passphrase and keeps the old one; once the store has the new one, --phase commit removes
the old one.

VOLUME is as for 'volume info', and may be attached.`,
		Example: `  luksplug volume passphrase change /var/lib/images/vm1-vdb.img
  luksplug volume passphrase change --all --secret 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f --pool /var/lib/images
  luksplug --passphrase-file old.key volume passphrase change vdb.xml --new-passphrase-file new.key --phase stage`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !o.all {
				return errors.New("change needs an argument: VOLUME")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPassphraseChange(cmd.Context(), a, o, args)
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&o.phase, "phase", "", "a part of the change only: stage or commit")
	cmd.Flags().BoolVar(&o.all, "all", false, "change every volume that uses the secret of --secret")
	cmd.Flags().StringArrayVar(&o.pools, "pool", nil, "with --all, a directory with volumes (repeatable)")
	return cmd
}

// check returns what contradicts itself in the flags.
func (o *changeOptions) check(a *app, volumes int) error {
	switch {
	case o.all && o.secret == "":
		return &usageError{errors.New("--all needs --secret, the secret whose volumes are to be changed")}
	case len(o.pools) > 0 && !o.all:
		return &usageError{errors.New("--pool needs --all")}
	case o.header != "" && volumes != 1:
		return &usageError{errors.New("--header is for one VOLUME: name others by the XML of their disks")}
	case o.phase != "" && o.phase != string(volume.PhaseStage) && o.phase != string(volume.PhaseCommit):
		return &usageError{fmt.Errorf("--phase %q: it is stage or commit", o.phase)}
	case a.flags.passphrase != "" && o.file == "":
		return &usageError{errors.New("with --passphrase-file, --new-passphrase-file is needed: a new passphrase that is kept nowhere would be lost")}
	}
	return o.checkInput(a)
}

func runPassphraseChange(ctx context.Context, a *app, o changeOptions, names []string) error {
	if err := o.check(a, len(names)); err != nil {
		return err
	}
	limit := brisk
	if o.all || len(names) > 1 {
		limit = bySize
	}
	ctx, cancel := a.boundedBy(ctx, limit)
	defer cancel()
	c := volume.Change{Unlock: o.unlockTime, Phase: volume.Phase(o.phase), DryRun: o.dryRun}
	for _, name := range names {
		l, err := o.location(ctx, a, name)
		if err != nil {
			return err
		}
		c.Volumes = append(c.Volumes, l)
	}
	if err := o.passphrases(ctx, a, &c); err != nil {
		return err
	}
	defer c.Old.Wipe()
	var err error
	if c.New, err = o.fresh(ctx, a); err != nil {
		return err
	}
	defer c.New.Wipe()
	if o.all {
		if c.Volumes, err = o.everyVolume(ctx, c); err != nil {
			return err
		}
	}
	out, err := volume.ChangePassphrase(ctx, c)
	if err != nil {
		return err
	}
	if c.Stored != nil {
		a.settleAfter(ctx, c.Stored.Store)
	}
	return a.show(changedText(c, out), changedToJSON(c, out))
}

// passphrases finds the old passphrase: a secret, which is changed, or that of a file.
func (o *changeOptions) passphrases(ctx context.Context, a *app, c *volume.Change) (err error) {
	switch {
	case o.secret != "" && a.flags.passphrase != "":
		return &usageError{errors.New("--secret and --passphrase-file contradict each other: the secret has its passphrase")}
	case o.secret != "":
		return withSecret(ctx, a, o.secret, func(ctx context.Context, f found) (err error) {
			c.Stored, c.Uses, err = storedOf(ctx, a, f)
			return err
		})
	}
	named, err := secretsOf(ctx, a, c.Volumes[0].Path)
	if a.flags.passphrase != "" {
		if len(named) > 0 && err == nil {
			err = a.note("the secret %s in %s is for this volume, and is not changed: use --secret to change it with the volume", named[0].document.UUID, named[0].store)
		}
		if err == nil || len(named) == 0 {
			c.Old, err = a.readPassphrase(ctx, a.flags.passphrase)
		}
		return err
	}
	if err == nil && len(named) == 0 {
		err = &usageError{errors.New("no key store has a secret with this volume's path as usage: name the secret with --secret, or give --passphrase-file and --new-passphrase-file")}
	}
	if err == nil {
		c.Stored, c.Uses, err = storedOf(ctx, a, named[0])
	}
	return err
}

// everyVolume returns the volumes that use the secret: those given, those of its uses, and those of the pools.
func (o *changeOptions) everyVolume(ctx context.Context, c volume.Change) ([]volume.Location, error) {
	all := slices.Clone(c.Volumes)
	add := func(l volume.Location) {
		if !slices.ContainsFunc(all, func(have volume.Location) bool {
			return samePath(have.Path, l.Path) || samePath(cmp.Or(have.Header, have.Path), cmp.Or(l.Header, l.Path))
		}) {
			all = append(all, l)
		}
	}
	// Those with a header of their own first: a document names the image alone.
	uses := slices.Clone(c.Uses)
	slices.SortStableFunc(uses, func(u, v hotplug.Use) int { return -cmp.Compare(min(len(u.Header), 1), min(len(v.Header), 1)) })
	for _, u := range uses {
		if filepath.IsAbs(u.Payload) { // the change refuses what is not on this host
			add(volume.Location{Path: u.Payload, Header: u.Header})
		}
	}
	for _, dir := range o.pools {
		found, err := volume.FindVolumes(ctx, absolute(dir), *c.Stored)
		if err != nil {
			return nil, err
		}
		for _, l := range found {
			add(l)
		}
	}
	return all, nil
}

// changedText returns the human-readable form.
func changedText(c volume.Change, out *volume.Changed) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(printable.Line(fmt.Sprintf(format, args...)) + "\n")
	}
	for _, v := range out.Volumes {
		switch {
		case c.DryRun && v.Added:
			line("%s: the new passphrase would be added in key slot %d", v.Path, v.Slot)
		case c.DryRun:
			line("%s: the new passphrase opens key slot %d", v.Path, v.Slot)
		case len(v.Wiped) > 0:
			line("%s: the new passphrase is in key slot %d, the old one was wiped from %s", v.Path, v.Slot, strings.TrimPrefix(slotsText(v.Wiped), "key "))
		case c.Phase == volume.PhaseStage:
			line("%s: the new passphrase is in key slot %d, the old one still opens the volume", v.Path, v.Slot)
		default:
			line("%s: the new passphrase is in key slot %d", v.Path, v.Slot)
		}
	}
	if c.Stored != nil && out.Replaced {
		line("%s has the new value", c.Stored)
	}
	return b.String()
}

// changedJSON is a change of passphrases in JSON.
type changedJSON struct {
	Volumes  []volumeChangedJSON `json:"volumes"`
	Phase    string              `json:"phase,omitempty"`
	DryRun   bool                `json:"dry_run"`
	Resumed  bool                `json:"resumed"`
	Replaced bool                `json:"value_replaced"`
	Secret   string              `json:"secret,omitempty"`
	KeyStore string              `json:"keystore,omitempty"`
}

type volumeChangedJSON struct {
	Path   string `json:"path"`
	Header string `json:"header,omitempty"`
	Slot   int    `json:"slot"`
	Added  bool   `json:"added"`
	Wiped  []int  `json:"wiped"`
}

func changedToJSON(c volume.Change, out *volume.Changed) changedJSON {
	j := changedJSON{Phase: string(c.Phase), DryRun: c.DryRun, Resumed: out.Resumed, Replaced: out.Replaced, Volumes: []volumeChangedJSON{}}
	for _, v := range out.Volumes {
		j.Volumes = append(j.Volumes, volumeChangedJSON{v.Path, v.Header, v.Slot, v.Added, append([]int{}, v.Wiped...)})
	}
	if c.Stored != nil {
		j.Secret, j.KeyStore = c.Stored.Document.UUID.String(), c.Stored.Store.String()
	}
	return j
}
