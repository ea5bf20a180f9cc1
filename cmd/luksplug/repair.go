package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/printable"
)

func newRepair(a *app) *cobra.Command {
	o := adoptOptions{}
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Remove what interrupted runs have left in the VM",
		Long: `repair removes luksplug's nodes, objects and controllers that no device uses: the
leftovers of a run that was killed or lost its connection. It does not touch
attached disks, except that it removes secrets that QEMU no longer needs.

It also makes the metadata of a libvirt domain match what is attached. A domain that is
off has nothing in a QEMU: repair then makes the arguments for QEMU in its definition
match the disks that belong to it (hook enable --cold-plug).

--adopt does something else: luksplug's record of the disks in the metadata of a
domain counts only if it was signed with the key of this host, since others can
write metadata. --adopt shows a record that was not (of an earlier luksplug, of one on
another host, or of another user), asks for confirmation, and signs it. Look at
every image, secret and device in it: the host acts on them from then on. The domain
may be off.`,
		Example: `  luksplug --domain vm1 list
  luksplug --domain vm1 repair
  luksplug --domain vm1 repair --adopt`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(&a.flags); err != nil {
				return err
			}
			if o.adopt {
				return runAdopt(cmd.Context(), a, o)
			}
			return runRepair(cmd.Context(), a)
		},
	}
	cmd.Flags().BoolVar(&o.adopt, "adopt", false, "show the domain's records of its disks, and sign those that are not signed with this host's key")
	cmd.Flags().BoolVar(&o.yes, "yes", false, "with --adopt, sign without confirmation")
	return cmd
}

func runRepair(ctx context.Context, a *app) error {
	return withVM(ctx, a, a.flags.limit(), func(ctx context.Context, vm virtualMachine) error {
		repaired, err := vm.Repair(ctx)
		if err != nil && (repaired == nil || len(repaired.Removed)+len(repaired.Fixed)+len(repaired.Redefined) == 0) {
			return err // and not that nothing was left
		}
		return errors.Join(err, showRepaired(a, repaired), noteJobs(a))
	})
}

// noteJobs names the re-encryptions of the VM that are not finished.
func noteJobs(a *app) error {
	j, err := a.journal()
	if err != nil {
		return nil //nolint:nilerr // a user without such a place has none
	}
	entries, err := j.List()
	if err != nil {
		a.log.Warn(err) // the VM is repaired
	}
	for _, e := range entries {
		if e.Phase.Switched() || e.VM.UUID != a.vm {
			continue
		}
		if err := a.note("the re-encryption %s of %s is not finished: 'luksplug volume jobs %s --wait' goes on with it, and --cancel ends it", shortID(e), e.Disk, shortID(e)); err != nil {
			return err
		}
	}
	return nil
}

func showRepaired(a *app, r *libvirtvm.Repaired) error {
	out := struct {
		Removed  []diskJSON `json:"removed"`
		Metadata []string   `json:"metadata"` // changes of the domain's
	}{[]diskJSON{}, []string{}}
	var lines []string // QEMU may have any number of leftovers
	for _, h := range r.Removed {
		out.Removed = append(out.Removed, diskToJSON(h))
		for _, part := range h.Left() {
			lines = append(lines, printable.Line(fmt.Sprintf("%s: removed %s", h.Target, part)))
		}
	}
	for _, s := range r.Fixed {
		what := ": removed from the domain's metadata, since it is not attached"
		if s.Attached {
			what = ": written into the domain's metadata"
		}
		out.Metadata = append(out.Metadata, s.Target+what)
		lines = append(lines, printable.Line(s.Target+what))
	}
	for _, target := range r.Redefined {
		const what = ": arguments for QEMU in the domain's definition made again"
		out.Metadata = append(out.Metadata, target+what)
		lines = append(lines, printable.Line(target+what))
	}
	switch {
	case len(lines) > 0:
	case r.Off:
		lines = []string{"the domain is off, and nothing was left to repair in its definition"}
	case len(r.Removed) == 0:
		lines = []string{"nothing was left to remove"}
	}
	text := ""
	if len(lines) > 0 {
		text = strings.Join(lines, "\n") + "\n"
	}
	return a.show(text, out)
}
