package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/volume"
)

// attachHeaderOptions are the flags of volume attach-header.
type attachHeaderOptions struct {
	headerOptions
	remove bool
}

func newAttachHeader(a *app) *cobra.Command {
	var o attachHeaderOptions
	cmd := &cobra.Command{
		Use:   "attach-header VOLUME",
		Short: "Move the LUKS header of a volume into its image",
		Long: `attach-header writes the LUKS header in a file of its own into its raw image or block
device, in the place before the payload. It is the reverse of detach-header; a volume
that was made with its header in a file has no such place, and its payload would have
to be copied into a new volume. No VM may use the volume.

The place has to have zeros, as detach-header --wipe leaves it, or a header of the same
volume. What is replaced is kept in a file beside the header. The file with the header
is kept as well, or with --remove wiped and removed once the header is stored in the
image and verified. After an interrupted run, the same command finishes.

VOLUME is as for 'volume info', and names the header, or --header does.`,
		Example: `  luksplug volume attach-header --header /var/lib/luksplug/headers/vm1-vdb.hdr /var/lib/images/vm1-vdb.img
  luksplug volume attach-header --remove vdb.xml`,
		Args: arguments("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAttachHeader(cmd.Context(), a, o, args[0])
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&o.remove, "remove", false, "wipe and remove the file with the header")
	return cmd
}

func runAttachHeader(ctx context.Context, a *app, o attachHeaderOptions, name string) error {
	return o.withUnused(ctx, a, name, func(ctx context.Context, v headerVolume) error {
		if v.header == "" {
			return &usageError{errors.New("attach-header needs --header, the path of the file with the header, or a VOLUME that names it")}
		}
		out, err := volume.AttachHeader(ctx, volume.Attaching{Path: v.path, Header: absolute(v.header), Passphrase: v.passphrase, Attached: v.attached, Remove: o.remove, DryRun: o.dryRun})
		if err != nil {
			return err
		}
		if !out.Removed {
			if err := a.note("the header in %s still opens the volume: keep it away from the image, or remove it with --remove", v.header); err != nil {
				return err
			}
		}
		return a.show(headerAttachedText(out, v, o.dryRun), movedJSON{
			Image: v.path, File: v.header, UUID: out.LUKS.UUID, LUKS: out.LUKS.Version, Length: out.Length, Written: out.Written, Wiped: out.Removed, Replaced: out.Replaced, DryRun: o.dryRun,
		})
	})
}

// headerAttachedText returns the human-readable form.
func headerAttachedText(h *volume.AttachedHeader, v headerVolume, dryRun bool) string {
	text := fmt.Sprintf("header of %s %s into it: %s, UUID %s", v.path, done(dryRun, "written"), h.LUKS, h.LUKS.UUID)
	if !h.Written {
		text = fmt.Sprintf("header of %s is in it already: %s, UUID %s", v.path, h.LUKS, h.LUKS.UUID)
	}
	if h.Replaced != "" {
		text += "; what was there " + done(dryRun, "kept") + " in " + h.Replaced
	}
	if h.Removed {
		text += "; " + v.header + " " + done(dryRun, "removed")
	}
	return text + "\n"
}
