package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets"
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
		Short: "Report whether a domain with luksplug's disks can be migrated to another libvirt",
		Long: `migrate-check examines a running domain and the libvirt at the URI DESTINATION:
whether the attached disks are recorded, whether the destination knows QEMU and its
machine, and whether it has luksplug's hook, the images and the keys. libvirt cannot
tell the latter, so luksplug is run there: through ssh if DESTINATION has +ssh, or
with the command of --shell. What could not be checked is shown as such.

If a migration fails late, QEMU on the source opens images with qcow2's own
encryption again. It needs their secrets for that; without them the guest loses the
disk. --prepare gives these secrets to QEMU. 'luksplug repair' removes them after
the migration, on the host that then has the domain.

The exit code is 5 if a check fails. Nothing is changed without --prepare.`,
		Example: `  luksplug migrate-check vm1 qemu+ssh://vmhost2/system
  luksplug migrate-check vm1 qemu+ssh://vmhost2/system --prepare
  luksplug migrate-check vm1 qemu+tls://vmhost2/system --shell 'ssh root@vmhost2'`,
		Args: arguments("DOMAIN", "DESTINATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMigrateCheck(cmd.Context(), a, o, args[0], args[1])
		},
	}
	cmd.Flags().BoolVar(&o.prepare, "prepare", false, "give QEMU the secrets that it needs again if the migration fails")
	cmd.Flags().StringVar(&o.shell, "shell", "", "the command that runs a command on the destination, such as 'ssh vmhost2'")
	return cmd
}

func runMigrateCheck(ctx context.Context, a *app, o migrateOptions, domain, to string) error {
	options := libvirtvm.MigrateOptions{Shell: strings.Fields(o.shell)}
	if o.prepare {
		options.Prepare = func(disk *blockgraph.Disk) (secrets.Store, error) { return openDiskStore(a, disk) }
	}
	return withDomain(ctx, a, domain, func(ctx context.Context, d *libvirtvm.Domain) error {
		report, err := d.MigrateCheck(ctx, to, options)
		if err != nil {
			return err
		}
		return showReport(a, report, "domain "+domain+" should not be migrated to "+to)
	})
}
