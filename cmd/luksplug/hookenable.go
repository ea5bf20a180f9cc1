package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

func newHookEnable(a *app) *cobra.Command {
	e := libvirtvm.EnableOptions{}
	apply := applyFlags{}
	cmd := &cobra.Command{
		Use:   "enable DOMAIN",
		Short: "Give a domain what the hook needs: a monitor, and root ports",
		Long: `enable adds to the domain's definition a monitor of luksplug's own, through which
disks are plugged as it starts, and root ports that libvirt gives to no other
device. With --cold-plug its disks are among QEMU's arguments instead, so that the
guest can boot from them. It shows what is changed and asks; libvirt validates it.
It takes effect when the domain is started next.`,
		Example: "  luksplug hook enable vm1\n  luksplug hook enable vm1 --cold-plug --ports 4 --yes\n  luksplug hook enable vm1 --dry-run",
		Args:    argument("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runChange(cmd.Context(), args[0], apply, func(ctx context.Context, d *libvirtvm.Domain) (*libvirtvm.Change, error) { return d.Enable(ctx, e) })
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
		Use:     "disable DOMAIN",
		Short:   "Take from a domain what enable has given it",
		Long:    "disable removes luksplug's monitor and root ports from the domain's definition, which must have none of its disks any more. It shows what is changed and asks.",
		Example: "  luksplug hook disable vm1",
		Args:    argument("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runChange(cmd.Context(), args[0], apply, func(ctx context.Context, d *libvirtvm.Domain) (*libvirtvm.Change, error) { return d.Disable(ctx) })
		},
	}
	apply.register(cmd)
	return cmd
}

// applyFlags say whether a change that was shown is made.
type applyFlags struct{ yes, dry bool }

func (f *applyFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "show what would be changed, and change nothing")
}

// errNotConfirmed reports that nobody has confirmed a change.
var errNotConfirmed = errors.New("nothing was changed: there is no terminal to ask at, so give --yes")

// runChange shows a change of a domain's definition, and makes it.
func (a *app) runChange(ctx context.Context, name string, apply applyFlags, prepare func(context.Context, *libvirtvm.Domain) (*libvirtvm.Change, error)) error {
	if err := a.nameDomain(name); err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	d, err := a.openDomain(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // nothing is lost with it
	change, err := prepare(ctx, d)
	if err != nil {
		return err
	}
	difference := udiff.Unified(name+" (now)", name+" (changed)", change.Before, change.After)
	if a.flags.output == "json" {
		if err := a.printJSON(struct {
			Changed    bool   `json:"changed"`
			Difference string `json:"difference"`
		}{difference != "" && !apply.dry && apply.yes, difference}); err != nil {
			return err
		}
	} else if difference == "" {
		return a.print(name + " has it already\n")
	} else if err := a.print(difference); err != nil {
		return err
	}
	if difference == "" || apply.dry {
		return nil
	}
	if !apply.yes {
		if err := a.confirm("change the definition of " + name); err != nil {
			return err
		}
	}
	return change.Apply(ctx)
}

// nameDomain takes the domain of an argument for that of --domain.
func (a *app) nameDomain(name string) error {
	if a.flags.domain != "" && a.flags.domain != name {
		return &usageError{fmt.Errorf("--domain %s and the argument %s name two domains", a.flags.domain, name)}
	}
	a.flags.domain = name
	return nil
}

// confirm asks the user at the terminal.
func (a *app) confirm(what string) error {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return &usageError{errNotConfirmed}
	}
	if _, err := fmt.Fprintf(a.err, "luksplug: %s? [y/N] ", what); err != nil {
		return err
	}
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil && !errors.Is(err, io.EOF) && answer != "" {
		return err
	}
	if strings.ToLower(answer) != "y" && strings.ToLower(answer) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
