package main

import (
	"context"
	"fmt"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/printable"
)

func newHookEnable(a *app) *cobra.Command {
	e := libvirtvm.EnableOptions{}
	apply := applyFlags{needsHook: true}
	cmd := &cobra.Command{
		Use:   "enable DOMAIN",
		Short: "Give a domain what the hook needs: a monitor and root ports",
		Long: `enable adds a monitor for luksplug to the domain's definition, through which disks
are attached at its start, and root ports that libvirt gives to no other device.
With --cold-plug the disks are among QEMU's arguments instead, so that the guest can
boot from them. enable shows the change and asks for confirmation. libvirt validates
the definition. A domain of this host is refused if its libvirt does not run the
hook, since it would not start. The change takes effect at the domain's next start.`,
		Example: "  luksplug hook enable vm1\n  luksplug hook enable vm1 --cold-plug --ports 4 --yes\n  luksplug hook enable vm1 --dry-run",
		Args:    arguments("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runChange(cmd.Context(), a, args[0], apply, func(ctx context.Context, d *libvirtvm.Domain) (*libvirtvm.Change, error) { return d.Enable(ctx, e) })
		},
	}
	cmd.Flags().IntVar(&e.Ports, "ports", 4, fmt.Sprintf("root ports for luksplug's disks, at most %d", libvirtvm.MaxPorts))
	cmd.Flags().BoolVar(&e.ColdPlug, "cold-plug", false, "have the disks among QEMU's arguments, so that the guest can boot from them")
	apply.register(cmd)
	return cmd
}

func newHookDisable(a *app) *cobra.Command {
	apply := applyFlags{}
	cmd := &cobra.Command{
		Use:   "disable DOMAIN",
		Short: "Remove what enable has added to a domain",
		Long: `disable removes luksplug's monitor and root ports from the domain's definition. It
refuses a domain that still has luksplug disks. It shows the change and asks for
confirmation.`,
		Example: "  luksplug hook disable vm1",
		Args:    arguments("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runChange(cmd.Context(), a, args[0], apply, func(ctx context.Context, d *libvirtvm.Domain) (*libvirtvm.Change, error) { return d.Disable(ctx) })
		},
	}
	apply.register(cmd)
	return cmd
}

// applyFlags decide whether a change is made after it was shown.
type applyFlags struct {
	yes, dry  bool
	needsHook bool // the changed domain does not start without the hook
}

func (f *applyFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.yes, "yes", false, "make the change without confirmation")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "show the change without making it")
}

// runChange shows the change of a domain's definition that prepare returns, and makes it.
func runChange(ctx context.Context, a *app, name string, apply applyFlags, prepare func(context.Context, *libvirtvm.Domain) (*libvirtvm.Change, error)) error {
	return withDomain(ctx, a, name, func(ctx context.Context, d *libvirtvm.Domain) error {
		if apply.needsHook && !apply.dry {
			if err := checkEffective(a, name); err != nil {
				return err
			}
		}
		change, err := prepare(ctx, d)
		if err != nil {
			return err
		}
		difference := udiff.Unified(name+" (now)", name+" (changed)", change.Before, change.After)
		text := difference
		if difference == "" {
			text = printable.Line(name) + " has it already\n"
		}
		if err := a.show(text, struct {
			Changed    bool   `json:"changed"`
			Difference string `json:"difference"`
		}{difference != "" && !apply.dry && apply.yes, difference}); err != nil || difference == "" || apply.dry {
			return err
		}
		if !apply.yes {
			if err := confirm(ctx, a, "change the definition of "+name); err != nil {
				return err
			}
		}
		return change.Apply(ctx)
	})
}
