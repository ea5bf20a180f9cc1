package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

func newDetach(a *app) *cobra.Command {
	o := libvirtvm.DetachOptions{}
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
			return a.runDetach(cmd.Context(), o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.Persistent, "persistent", false, "the disk no longer belongs to the libvirt domain, either: it is not there at the next start")
	cmd.Flags().BoolVar(&o.IgnoreMissing, "ignore-missing", false, "succeed when luksplug holds no such disk")
	return cmd
}

func (a *app) runDetach(ctx context.Context, o libvirtvm.DetachOptions, target string) error {
	if err := a.checkPersistent(o.Persistent); err != nil {
		return err
	}
	const guestsUsuallyTake = 30 * time.Second
	o.Wait = orDuration(a.flags.timeout, guestsUsuallyTake)
	// The wait for the guest is bounded by itself; QEMU and the lock must not take
	// forever either.
	ctx, cancel := context.WithTimeout(ctx, o.Wait+time.Minute)
	defer cancel()
	return a.withVM(ctx, func(ctx context.Context, vm virtualMachine) error {
		detached, err := vm.Detach(ctx, target, o)
		if err != nil {
			return err
		}
		return a.printDetached(detached)
	})
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
	_ = a.withVM(ctx, func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		disks, err := vm.List(ctx)
		for _, h := range disks {
			out = append(out, h.Target)
		}
		return err
	})
	return out
}
