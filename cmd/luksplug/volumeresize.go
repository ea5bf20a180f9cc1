package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// resizeOptions are the flags of volume resize.
type resizeOptions struct {
	headerFlags
	shrink, allocate, dryRun bool
}

func newVolumeResize(a *app) *cobra.Command {
	var o resizeOptions
	cmd := &cobra.Command{
		Use:   "resize VOLUME SIZE",
		Short: "Change the size of a volume, also while a VM uses it",
		Long: `resize gives the guest's disk a new SIZE: bytes, or with a unit such as 512M, 10G or
2TiB; +SIZE adds to the present one. It is a multiple of 512. The image is larger by the
header in it. No data move, and the new space reads as random data. A block device has
the size that its owner gives it: resize that first (lvextend, for example), and give its
new size.

With --domain or --qmp, VOLUME is a disk of the VM, as for detach: a target (vdb), the
disk's XML, or its image. A raw image on this host is extended first, then QEMU tells the
guest, which sees the new size at once; partitions and file systems are the guest's own
to extend. If that fails, the image gets its old size back. An attached disk only
grows. Refused are disks that a storage daemon serves (--unlock external), that are
transient or shareable, have images below them, are used by block jobs, or were not
attached by luksplug: of libvirt's own, virsh blockresize changes the size.

Without a VM, VOLUME is as for 'volume info', and no VM may have it. A smaller size needs
--shrink, and what is beyond it is lost. For a qcow2 image with its header inside, qemu-img
needs the passphrase: that of --passphrase-file, of --secret, or of the secret in the
key stores that has the image's path as its usage.`,
		Example: `  luksplug --domain vm1 volume resize vdb +10G
  luksplug --qmp /run/vm1.qmp volume resize vdb 20G --dry-run
  luksplug volume resize /var/lib/images/vm1-vdb.img 20G --header /var/lib/luksplug/headers/vm1-vdb.hdr
  luksplug volume resize vdb.xml 5G --shrink`,
		Args: arguments("VOLUME", "SIZE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := newSize(args[1])
			if err != nil {
				return err
			}
			if a.flags.domain != "" || a.flags.qmp != "" {
				return runResizeAttached(cmd.Context(), a, o, args[0], size)
			}
			return runVolumeResize(cmd.Context(), a, o, args[0], size)
		},
	}
	o.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.shrink, "shrink", false, "allow a smaller size of a volume that no VM has: what is beyond it is lost")
	f.BoolVar(&o.allocate, "preallocate", false, "reserve the new space of a raw image on the file system")
	f.BoolVar(&o.dryRun, "dry-run", false, "make all checks, and change nothing")
	return cmd
}

// newSize parses the argument SIZE.
func newSize(text string) (hotplug.NewSize, error) {
	digits, added := strings.CutPrefix(text, "+")
	bytes, err := parseSize(digits)
	if err == nil && bytes%luks.SectorSize != 0 {
		err = fmt.Errorf("it is no multiple of %d bytes", luks.SectorSize)
	}
	if err != nil {
		return hotplug.NewSize{}, &usageError{fmt.Errorf("the size %q: %w", text, err)}
	}
	return hotplug.NewSize{Bytes: bytes, Added: added}, nil
}

// runResizeAttached resizes a disk of a VM.
func runResizeAttached(ctx context.Context, a *app, o resizeOptions, argument string, to hotplug.NewSize) error {
	switch {
	case o.shrink:
		return &usageError{errors.New("--shrink is for a volume that no VM has: detach the disk first, and name no VM")}
	case o.header != "" || o.secret != "":
		return &usageError{errors.New("--header and --secret are for a volume that no VM has: name the disk as for detach")}
	}
	disk, err := readDiskArgument(ctx, a, argument)
	if err != nil {
		return err
	}
	return withVM(ctx, a, a.flags.limit(), func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		target, err := disk.find(ctx, m)
		if err != nil {
			return err
		}
		r, err := vm.Resize(ctx, target, hotplug.ResizeOptions{Size: to, Allocate: o.allocate, DryRun: o.dryRun})
		if err != nil {
			return err
		}
		return showResized(a, resizedJSON{Target: r.Target, Path: r.Payload, OldSize: r.Old, Size: r.New, DryRun: o.dryRun})
	})
}

// pace returns whether the duration depends on the size of the volume.
func (o *resizeOptions) pace() pace {
	if o.allocate {
		return bySize
	}
	return brisk
}

// runVolumeResize resizes a volume that no VM has.
func runVolumeResize(ctx context.Context, a *app, o resizeOptions, name string, to hotplug.NewSize) error {
	ctx, cancel := a.boundedBy(ctx, o.pace())
	defer cancel()
	shown := a.transfer("allocating")
	r := volume.Resizing{Size: to, Shrink: o.shrink, Allocate: o.allocate, DryRun: o.dryRun, Report: shown.update}
	var err error
	if r.Path, r.Header, err = o.volume(ctx, a, name); err != nil {
		return err
	}
	if r.Attached, err = a.uses(); err != nil {
		return err
	}
	r.Passphrase = func(ctx context.Context) (*secrets.Secret, error) { return o.passphrase(ctx, a, r.Path) }
	out, err := volume.Resize(ctx, r)
	shown.end()
	if err != nil {
		return err
	}
	return showResized(a, resizedJSON{Path: r.Path, Header: r.Header, OldSize: out.Old, Size: out.New, DryRun: o.dryRun})
}

// resizedJSON is the result of a resize in JSON.
type resizedJSON struct {
	Target  string `json:"target,omitempty"`
	Path    string `json:"path,omitempty"`
	Header  string `json:"header,omitempty"`
	OldSize int64  `json:"old_size"`
	Size    int64  `json:"size"`
	Changed bool   `json:"changed"`
	DryRun  bool   `json:"dry_run"`
}

func showResized(a *app, j resizedJSON) error {
	j.Changed = j.Size != j.OldSize && !j.DryRun
	what := printable.Line(j.Path)
	if j.Target != "" {
		what = j.Target
	}
	is := fmt.Sprintf("%s (%d bytes)", size(j.Size), j.Size)
	text := fmt.Sprintf("%s resized from %s to %s\n", what, size(j.OldSize), is)
	switch {
	case j.Size == j.OldSize:
		text = fmt.Sprintf("%s has %s already\n", what, is)
	case j.DryRun:
		text = fmt.Sprintf("%s would be resized from %s to %s\n", what, size(j.OldSize), is)
	}
	return a.show(text, j)
}
