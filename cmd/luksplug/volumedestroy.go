package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/printable"
)

// destroyOptions are the flags of volume destroy.
type destroyOptions struct {
	headerFlags
	keepData, keepSecret, discard, force bool
	apply                                applyFlags
}

func newVolumeDestroy(a *app) *cobra.Command {
	var o destroyOptions
	cmd := &cobra.Command{
		Use:   "destroy VOLUME",
		Short: "Wipe the header of a volume, and remove its files and secret",
		Long: `destroy makes a volume unreadable for ever: it overwrites the LUKS header with all key
slots, reads that back from the device, removes the volume's secret from its key store,
and removes the image and the header. VOLUME is as for 'volume info'. A block device
stays, with its header wiped. It shows what it is about to do and asks for confirmation.

Refused is a volume that a VM of this host has attached, that a process has open, or that
the host has mounted; and, without --force, one that a document of libvirt names: the
definition of a domain that is off, a saved state, a snapshot.

The secret is that of --secret, or the one in the key stores that has the image's path
as its usage. It stays if something else uses it, too. If a run was interrupted, run it
again: it finds what is left to do.

The output names where the header may still exist, as far as this host can see: copies
beside the volume, snapshots, the flash of an SSD. With a copy of the header, its
passphrase still opens a payload that exists.`,
		Example: `  luksplug volume destroy /var/lib/images/vm1-vdb.img --dry-run
  luksplug volume destroy vdb.xml --yes
  luksplug volume destroy /dev/vg0/vm1-vdb --header /var/lib/luksplug/headers/vm1-vdb.hdr --discard`,
		Args: arguments("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeDestroy(cmd.Context(), a, o, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.header, "header", "", "the path of a LUKS header outside of the image")
	f.StringVar(&o.secret, "secret", "", "the volume's secret, by its uuid or TYPE:USAGE (default: the one of the key stores that has the image's path as its usage)")
	f.BoolVar(&o.keepData, "keep-data", false, "leave the image, which nothing decrypts any more")
	f.BoolVar(&o.keepSecret, "keep-secret", false, "leave the secret in its key store")
	f.BoolVar(&o.discard, "discard", false, "also give the space back to the file system or device (discard)")
	f.BoolVar(&o.force, "force", false, "destroy the volume although documents of libvirt name it, or if that is not known")
	o.apply.register(cmd)
	return cmd
}

// volumeSecret is a secret of a volume that is to be destroyed. Stays is why it is not removed, "" if it is.
type volumeSecret struct {
	found
	stays string
}

// destruction is a volume that is to be destroyed, with its secrets.
type destruction struct {
	volume.Destroying
	planned *volume.Destroyed
	secrets []volumeSecret
}

func runVolumeDestroy(ctx context.Context, a *app, o destroyOptions, name string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	d, err := planDestruction(ctx, a, o, name)
	if err != nil {
		return err
	}
	if !o.apply.yes || o.apply.dry {
		if err := a.show(d.text(false), d.json(o.apply.dry)); err != nil || o.apply.dry {
			return err
		}
		if err := confirm(ctx, a, "destroy the volume "+d.Path); err != nil {
			return err
		}
	}
	shown := a.transfer("wiping the header")
	d.DryRun, d.RemoveSecret, d.Report = false, d.removeSecrets, shown.update
	d.planned, err = volume.Destroy(ctx, d.Destroying)
	shown.end()
	if err != nil {
		return err
	}
	if !o.apply.yes {
		return a.note("the volume %s is destroyed", d.Path)
	}
	j := d.json(false)
	j.Changed = true
	return a.show(d.text(true), j)
}

// planDestruction makes all checks, and finds what is to be done.
func planDestruction(ctx context.Context, a *app, o destroyOptions, name string) (*destruction, error) {
	d := &destruction{Destroying: volume.Destroying{KeepData: o.keepData, Discard: o.discard, DryRun: true}}
	var err error
	if d.Path, d.Header, err = o.volume(ctx, a, name); err != nil {
		return nil, err
	}
	d.Path = absolute(d.Path) // as uses have it
	if d.Header != "" {
		d.Header = absolute(d.Header)
	}
	if d.Attached, err = a.uses(); err != nil {
		return nil, err
	}
	if d.planned, err = volume.Destroy(ctx, d.Destroying); err != nil {
		return nil, err
	}
	named, err := usesInLibvirt(ctx, a)
	if err != nil && !o.force {
		return nil, fmt.Errorf("check whether a document of libvirt names the volume: %w: --force destroys it without this check", err)
	}
	if err := d.checkNamed(named, o.force); err != nil {
		return nil, err
	}
	d.secrets, err = d.chooseSecrets(ctx, a, o, named)
	return d, err
}

// errNamed reports that a document of libvirt names a volume.
var errNamed = errors.New("a document of libvirt names the volume")

// checkNamed refuses a volume that documents of libvirt name. force allows those of domains that are off.
func (d *destruction) checkNamed(named []hotplug.Use, force bool) error {
	var of []hotplug.Use
	running := false
	for _, u := range named {
		if d.isOf(u) && (u.In == libvirtvm.AsItRuns || !force) {
			of = append(of, u)
			running = running || u.In == libvirtvm.AsItRuns
		}
	}
	if len(of) == 0 {
		return nil
	}
	remedy := "remove it there (virsh edit, or luksplug detach --persistent), or use --force: the domain would not start"
	if running {
		remedy = "detach it first"
	}
	return &hotplug.PreflightError{Cause: errNamed, Reason: fmt.Sprintf("the volume %s is named by %s: %s", d.Path, usesText(of), remedy)}
}

// isOf reports whether a use is one of the volume.
func (d *destruction) isOf(u hotplug.Use) bool {
	return sameVolume(d.Path, u.Payload) || d.Header != "" && u.Header != "" && sameVolume(d.Header, u.Header)
}

// chooseSecrets finds the secrets of the volume, and those of them that have to stay.
func (d *destruction) chooseSecrets(ctx context.Context, a *app, o destroyOptions, named []hotplug.Use) ([]volumeSecret, error) {
	var all []found
	var err error
	if o.secret != "" {
		err = withSecret(ctx, a, o.secret, func(_ context.Context, f found) error {
			all = []found{f}
			return nil
		})
	} else {
		all, err = secretsOf(ctx, a, d.Path)
	}
	if err != nil && !o.keepSecret {
		return nil, fmt.Errorf("find the volume's secret: %w: --keep-secret leaves it where it is", err)
	}
	others := slices.DeleteFunc(append(slices.Clone(d.Attached), named...), d.isOf)
	var out []volumeSecret
	for _, f := range all {
		out = append(out, volumeSecret{f, d.staying(f, others, o.keepSecret)})
	}
	return out, nil
}

// staying returns why a secret is not removed, "" if it is. others are the uses of secrets by other volumes.
func (d *destruction) staying(f found, others []hotplug.Use, keep bool) string {
	bound := f.document.Volume()
	_, err := f.keeper()
	switch uses := usesOf(f.document, others); {
	case keep:
		return "--keep-secret"
	case len(uses) > 0:
		return "it is also used by " + usesText(uses)
	case bound != "" && !samePath(bound, d.Path) && (d.Header == "" || !samePath(bound, d.Header)):
		return boundTo(bound)
	case err != nil:
		return err.Error()
	}
	return ""
}

// boundTo says that a secret stays because its document binds it to another volume.
func boundTo(volume string) string { return "its document binds it to " + volume }

// removeSecrets removes the secrets that do not stay.
func (d *destruction) removeSecrets(ctx context.Context) error {
	for _, s := range d.secrets {
		if s.stays != "" {
			continue
		}
		keeper, err := s.keeper()
		if err == nil {
			err = keeper.Remove(ctx, s.document.Reference())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// text describes what is to be done, or was done.
func (d *destruction) text(done bool) string {
	p := d.planned
	is := "a volume whose destruction was interrupted"
	if p.LUKS != nil {
		is = p.LUKS.String()
	}
	header := fmt.Sprintf("%s, %d bytes from byte %d on, to be overwritten with random data", p.Wiped, p.Length, p.Offset)
	removed, secret := "to be removed", "to be removed"
	if done {
		removed, secret = "removed", "removed"
		header = fmt.Sprintf("%s, %d bytes from byte %d on, overwritten with random data and read back", p.Wiped, p.Length, p.Offset)
		if !p.Direct {
			header += " (through the page cache: the file system has no direct reads)"
		}
	}
	rows := [][]string{{"volume", d.Path}, {"LUKS", is}, {"UUID", p.UUID}, {"header", header}}
	for _, path := range p.Removed {
		rows = append(rows, []string{"file", path + ", " + removed})
	}
	for _, path := range p.Kept {
		rows = append(rows, []string{"file", path + ", stays"})
	}
	for _, s := range d.secrets {
		state := secret
		if s.stays != "" {
			state = "stays: " + s.stays
		}
		rows = append(rows, []string{"secret", fmt.Sprintf("%s in %s, %s", s.document.UUID, s.store, state)})
	}
	if len(d.secrets) == 0 {
		rows = append(rows, []string{"secret", "no key store has one with the image's path as usage"})
	}
	for _, r := range p.Remains {
		rows = append(rows, []string{"may remain", r})
	}
	for _, row := range rows {
		row[1] = printable.Line(row[1])
	}
	return table(rows)
}

// destroyedJSON is a volume that is to be destroyed, or is, in JSON.
type destroyedJSON struct {
	Path        string                `json:"path"`
	Header      string                `json:"header,omitempty"`
	UUID        string                `json:"uuid"`
	Interrupted bool                  `json:"interrupted"` // an earlier run has begun
	Wiped       string                `json:"wiped"`       // the file with the header
	Offset      int64                 `json:"offset"`
	Length      int64                 `json:"length"`
	Direct      bool                  `json:"read_back_direct"`
	Removed     []string              `json:"removed"`
	Kept        []string              `json:"kept"`
	Secrets     []destroyedSecretJSON `json:"secrets"`
	Remains     []string              `json:"may_remain"`
	Changed     bool                  `json:"changed"`
	DryRun      bool                  `json:"dry_run"`
}

type destroyedSecretJSON struct {
	UUID     string `json:"uuid"`
	KeyStore string `json:"keystore"`
	Removed  bool   `json:"removed"` // or is to be
	Reason   string `json:"reason,omitempty"`
}

func (d *destruction) json(dry bool) destroyedJSON {
	p := d.planned
	j := destroyedJSON{Path: d.Path, Header: d.Header, UUID: p.UUID, Interrupted: p.LUKS == nil, Wiped: p.Wiped, Offset: p.Offset, Length: p.Length, Direct: p.Direct,
		Removed: notNil(p.Removed), Kept: notNil(p.Kept), Secrets: []destroyedSecretJSON{}, Remains: notNil(p.Remains), DryRun: dry}
	for _, s := range d.secrets {
		j.Secrets = append(j.Secrets, destroyedSecretJSON{s.document.UUID.String(), s.store.String(), s.stays == "", s.stays})
	}
	return j
}
