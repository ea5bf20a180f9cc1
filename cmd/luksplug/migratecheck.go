package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// migrateOptions are the flags of migrate-check.
type migrateOptions struct {
	prepare bool
	shell   string
}

func newMigrateCheck(a *app) *cobra.Command {
	o := migrateOptions{}
	cmd := &cobra.Command{
		Use:   "migrate-check DOMAIN DESTINATION",
		Short: "Report whether a domain with luksplug's disks could move to another libvirt",
		Long: `migrate-check looks at a running domain and at the libvirt that it is to move to:
whether what is attached is recorded, whether QEMU and its machine are known there,
and whether luksplug's hook, the images and the keys are there. libvirt cannot tell
the latter: luksplug itself is run there, through ssh where DESTINATION has +ssh, or
through the command that --shell names. What could not be looked at is shown as such.

An image of qcow2 with qcow2's own encryption has QEMU open it again when a
migration fails late, and QEMU then needs its secret, or the guest loses the disk.
--prepare gives QEMU these secrets. After the migration 'luksplug repair' removes
them, wherever the domain is.

The exit code is 5 where something is not in order. Nothing is changed without
--prepare.`,
		Example: `  luksplug migrate-check vm1 qemu+ssh://vmhost2/system
  luksplug migrate-check vm1 qemu+ssh://vmhost2/system --prepare
  luksplug migrate-check vm1 qemu+tls://vmhost2/system --shell 'ssh root@vmhost2'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%s takes two arguments, DOMAIN and DESTINATION, and got %d", cmd.Name(), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runMigrateCheck(cmd.Context(), o, args[0], args[1])
		},
	}
	cmd.Flags().BoolVar(&o.prepare, "prepare", false, "give QEMU the secrets that it needs again where the migration fails")
	cmd.Flags().StringVar(&o.shell, "shell", "", "the command that runs others on the destination, such as 'ssh vmhost2'")
	return cmd
}

func (a *app) runMigrateCheck(ctx context.Context, o migrateOptions, domain, to string) error {
	if err := a.nameDomain(domain); err != nil {
		return err
	}
	options := libvirtvm.MigrateOptions{Shell: strings.Fields(o.shell)}
	if o.prepare {
		options.Prepare = a.store
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	d, err := a.openDomain(ctx, domain)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // nothing is lost with it
	report, err := d.MigrateCheck(ctx, to, options)
	if err != nil {
		return err
	}
	if err := a.printReport(report); err != nil {
		return err
	}
	return inOrder(report, "domain "+domain+" should not be migrated to "+to)
}
