package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

func newRepair(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Remove what interrupted runs have left in the VM",
		Long: `repair removes nodes, objects and controllers of luksplug's that no device uses:
what is left when a run was killed or lost its connection. Disks that are
attached are not touched, but for secrets that QEMU needs no more.

The metadata of a libvirt domain are made to say what is attached.`,
		Example: `  luksplug --domain vm1 list
  luksplug --domain vm1 repair`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runRepair(cmd.Context()) },
	}
}

func (a *app) runRepair(ctx context.Context) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return a.withVM(ctx, func(ctx context.Context, vm virtualMachine) error {
		repaired, err := vm.Repair(ctx)
		return errors.Join(err, a.printRepaired(repaired))
	})
}

func (a *app) printRepaired(r *libvirtvm.Repaired) error {
	var recorded []string
	for _, s := range r.Fixed {
		what := ": removed from the domain's metadata, since it is not attached"
		if s.Attached {
			what = ": written into the domain's metadata"
		}
		recorded = append(recorded, s.Target+what)
	}
	if a.flags.output == "json" {
		list := []diskJSON{}
		for _, h := range r.Removed {
			list = append(list, diskToJSON(h))
		}
		return a.printJSON(struct {
			Removed  []diskJSON `json:"removed"`
			Metadata []string   `json:"metadata"` // what was changed in the domain's
		}{list, notNil(recorded)})
	}
	if len(r.Removed)+len(recorded) == 0 {
		return a.print("nothing was left to remove\n")
	}
	text := ""
	for _, h := range r.Removed {
		for _, part := range h.Left() {
			text += fmt.Sprintf("%s: removed %s\n", h.Target, part)
		}
	}
	for _, line := range recorded {
		text += line + "\n"
	}
	return a.print(text)
}
