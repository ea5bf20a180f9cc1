package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/volume"
)

// detachHeaderOptions are the flags of volume detach-header.
type detachHeaderOptions struct {
	headerOptions
	wipe bool
}

func newDetachHeader(a *app) *cobra.Command {
	var o detachHeaderOptions
	cmd := &cobra.Command{
		Use:   "detach-header VOLUME FILE",
		Short: "Move the LUKS header of a volume out of its image",
		Long: `detach-header copies the LUKS header at the beginning of a raw image or block device to
a new file of its own, which the volume's passphrase opens. The payload stays where it
is: QEMU 9.0, cryptsetup and luksplug open the image with FILE as its header. No VM may
use the volume.

With --wipe the header in the image is overwritten once FILE is stored and verified:
with random bytes, and then with zeros. Without it the header in the image still opens
the volume, and attach refuses the image with FILE as its header. --wipe also finishes
an earlier run: FILE may exist then, if it has this volume's header.

VOLUME is as for 'volume info'. attach-header is the reverse.`,
		Example: `  luksplug volume detach-header --wipe /var/lib/images/vm1-vdb.img /var/lib/luksplug/headers/vm1-vdb.hdr
  luksplug volume detach-header --wipe --dry-run vdb.xml /var/lib/luksplug/headers/vm1-vdb.hdr`,
		Args: arguments("VOLUME", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDetachHeader(cmd.Context(), a, o, args[0], args[1])
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&o.wipe, "wipe", false, "overwrite the header in the image")
	return cmd
}

func runDetachHeader(ctx context.Context, a *app, o detachHeaderOptions, name, to string) error {
	return o.withUnused(ctx, a, name, func(ctx context.Context, v headerVolume) error {
		out, err := volume.DetachHeader(ctx, volume.Detaching{Path: v.path, Header: v.header, To: absolute(to), Passphrase: v.passphrase, Attached: v.attached, Wipe: o.wipe, DryRun: o.dryRun})
		if err != nil {
			return err
		}
		if !out.Wiped {
			if err := a.note("the header in %s still opens the volume, and attach refuses the image with another header until it is wiped: run the same command with --wipe", v.path); err != nil {
				return err
			}
		}
		return a.show(headerDetachedText(out, v.path, to, o.dryRun), movedJSON{
			Image: v.path, File: to, UUID: out.LUKS.UUID, LUKS: out.LUKS.Version, Length: out.Length, Written: out.Copied, Wiped: out.Wiped, DryRun: o.dryRun,
		})
	})
}

// headerDetachedText returns the human-readable form.
func headerDetachedText(d *volume.Detached, path, to string, dryRun bool) string {
	text := fmt.Sprintf("header of %s %s to %s: %s, UUID %s", path, done(dryRun, "copied"), to, d.LUKS, d.LUKS.UUID)
	if !d.Copied {
		text = fmt.Sprintf("header of %s is in %s already: %s, UUID %s", path, to, d.LUKS, d.LUKS.UUID)
	}
	if d.Wiped {
		text += fmt.Sprintf("; the first %s of %s %s", size(d.Length), path, done(dryRun, "wiped"))
	}
	return text + "\n"
}

// done returns a participle for what was done, or would be done without --dry-run.
func done(dryRun bool, what string) string {
	if dryRun {
		return "would be " + what
	}
	return what
}

// movedJSON is the result of a move of a header in JSON.
type movedJSON struct {
	Image    string `json:"image"`
	File     string `json:"file"` // with the header outside of the image
	UUID     string `json:"uuid"`
	LUKS     int    `json:"luks"`
	Length   int64  `json:"length"`  // of the header's place in the image
	Written  bool   `json:"written"` // false: it was where it is to be
	Wiped    bool   `json:"wiped"`   // where it is not to be any more
	Replaced string `json:"replaced,omitempty"`
	DryRun   bool   `json:"dry_run"`
}
