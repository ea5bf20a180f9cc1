package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
)

func newDetach(a *app) *cobra.Command {
	ignoreMissing, persistent := false, false
	cmd := &cobra.Command{
		Use:   "detach TARGET",
		Short: "Unplug a disk from the running VM",
		Long: `detach asks the guest to release the disk (vdb), waits for it for as long as
--timeout says, and removes every node and object. A guest that does not answer
keeps its disk: the exit code is then 8, and a second detach finishes the job.`,
		Example: `  luksplug --domain vm1 detach vdb
  luksplug --qmp /run/vm1.qmp --timeout 2m detach vdb
  luksplug --domain vm1 detach vdb --ignore-missing`,
		Args: argument("TARGET"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.targets(cmd), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			const guestsUsuallyTake = 30 * time.Second
			wait := orDuration(a.flags.timeout, guestsUsuallyTake)
			// The wait for the guest is bounded by itself; QEMU and the lock
			// must not take forever either.
			ctx, cancel := context.WithTimeout(cmd.Context(), wait+time.Minute)
			defer cancel()
			if done, err := a.detachOff(ctx, args[0], persistent); done || err != nil {
				return err
			}
			return a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error {
				detached, err := vm.Detach(ctx, args[0], wait)
				var missing *hotplug.NotHeldError
				if (ignoreMissing || persistent) && errors.As(err, &missing) {
					detached, err = &hotplug.Detached{Target: args[0]}, nil
				}
				if err != nil {
					return err
				}
				if err := a.forgetRecord(ctx, args[0], persistent); err != nil {
					return err
				}
				return a.printDetached(detached)
			})
		},
	}
	cmd.Flags().BoolVar(&persistent, "persistent", false, "the disk no longer belongs to the libvirt domain, either: it is not there at the next start")
	cmd.Flags().BoolVar(&ignoreMissing, "ignore-missing", false, "succeed when luksplug holds no such disk")
	return cmd
}

func (a *app) printDetached(d *hotplug.Detached) error {
	if a.flags.output == "json" {
		return a.printJSON(struct {
			Target       string   `json:"target"`
			Removed      []string `json:"removed"`
			Milliseconds float64  `json:"milliseconds"`
		}{d.Target, notNil(d.Removed), milliseconds(d.Waited)})
	}
	if len(d.Removed) == 0 {
		return a.print(fmt.Sprintf("%s was not attached\n", d.Target))
	}
	text := fmt.Sprintf("%s detached", d.Target)
	if d.Waited > 0 {
		text += fmt.Sprintf(", the guest released it after %s", d.Waited.Round(time.Millisecond))
	}
	text += "\n"
	if a.flags.verbose > 0 {
		for _, r := range d.Removed {
			text += "  removed " + r + "\n"
		}
	}
	return a.print(text)
}

// targets returns what can be detached, for the completion in a shell: quickly,
// or not at all.
func (a *app) targets(cmd *cobra.Command) []string {
	if a.setUp(cmd) != nil {
		return nil
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var out []string
	// A VM that cannot be asked has no targets to offer.
	_ = a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		holdings, err := vm.List(ctx)
		for _, h := range holdings {
			out = append(out, h.Target)
		}
		return err
	})
	return out
}

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
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bounded(cmd.Context())
			defer cancel()
			return a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error {
				removed, err := vm.Repair(ctx)
				recorded, recordErr := a.repairRecord(ctx, vm)
				return errors.Join(err, recordErr, a.printRepaired(removed, recorded))
			})
		},
	}
}

func (a *app) printRepaired(removed []*hotplug.Holding, recorded []string) error {
	if a.flags.output == "json" {
		list := []holdingJSON{}
		for _, h := range removed {
			list = append(list, holdingToJSON(h))
		}
		return a.printJSON(struct {
			Removed  []holdingJSON `json:"removed"`
			Metadata []string      `json:"metadata"` // what was changed in the domain's
		}{list, notNil(recorded)})
	}
	if len(removed)+len(recorded) == 0 {
		return a.print("nothing was left to remove\n")
	}
	text := ""
	for _, h := range removed {
		for _, part := range h.Left() {
			text += fmt.Sprintf("%s: removed %s\n", h.Target, part)
		}
	}
	for _, r := range recorded {
		text += r + "\n"
	}
	return a.print(text)
}
