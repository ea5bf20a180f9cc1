package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

func newMigrateCheck(a *app) *cobra.Command {
	c := migrateCheck{app: a}
	cmd := &cobra.Command{
		Use:   "migrate-check DOMAIN DESTINATION",
		Short: "Tell whether a domain with luksplug's disks could move to another libvirt",
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
			if a.flags.domain != "" && a.flags.domain != args[0] {
				return &usageError{fmt.Errorf("--domain %s and the argument %s name two domains", a.flags.domain, args[0])}
			}
			a.flags.domain = args[0]
			to, err := libvirtconn.Parse(args[1])
			if err != nil {
				return err
			}
			ctx, cancel := a.bounded(cmd.Context())
			defer cancel()
			if err := a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error { return c.run(ctx, vm, to) }); err != nil {
				return err
			}
			if err := a.printFindings(c.findings); err != nil {
				return err
			}
			return inOrder(c.findings, "domain "+args[0]+" should not be migrated to "+to.String())
		},
	}
	cmd.Flags().BoolVar(&c.prepare, "prepare", false, "give QEMU the secrets that it needs again where the migration fails")
	cmd.Flags().StringVar(&c.shell, "shell", "", "the command that runs others on the destination, such as 'ssh vmhost2'")
	return cmd
}

// migrateCheck is one look at a domain and its destination.
type migrateCheck struct {
	app      *app
	prepare  bool
	shell    string
	findings []finding
}

func (c *migrateCheck) good(format string, args ...any) {
	c.findings = append(c.findings, finding{Good: true, Text: fmt.Sprintf(format, args...)})
}

func (c *migrateCheck) bad(format string, args ...any) {
	c.findings = append(c.findings, finding{Text: oneLine(fmt.Sprintf(format, args...))})
}

func (c *migrateCheck) unchecked(format string, args ...any) {
	c.findings = append(c.findings, finding{Unchecked: true, Text: fmt.Sprintf(format, args...)})
}

// run finds out. The error is one of the source: there is nothing to say then.
func (c *migrateCheck) run(ctx context.Context, vm *hotplug.VM, to *libvirtconn.URI) error {
	live, err := c.source(ctx, vm)
	if err != nil {
		return err
	}
	d := &destination{migrateCheck: c, uri: to, disks: live.Disks}
	if err := d.look(ctx, vm); err != nil {
		return err
	}
	return c.secrets(ctx, vm, live)
}

// source looks at what is attached and recorded.
func (c *migrateCheck) source(ctx context.Context, vm *hotplug.VM) (record.Record, error) {
	holdings, err := vm.List(ctx)
	if err != nil {
		return record.Record{}, err
	}
	for _, h := range holdings {
		if h.Leftover() {
			c.bad("disk %s: an interrupted run has left %s: run 'luksplug repair'", h.Target, strings.Join(h.Left(), ", "))
		}
	}
	states, err := c.app.recordState(ctx, holdings)
	if err != nil {
		return record.Record{}, err
	}
	for _, s := range states {
		switch {
		case s.Attached && !s.Live, !s.Attached && s.Live:
			c.bad("disk %s: %s: run 'luksplug repair'", s.Target, s.Difference())
		case s.Attached:
			c.good("disk %s is recorded in the domain's metadata", s.Target)
		}
	}
	live, _, err := c.app.libvirt.readRecords(ctx)
	return live, err
}

// secrets looks at what QEMU needs once more where the migration fails, and gives
// it that.
func (c *migrateCheck) secrets(ctx context.Context, vm *hotplug.VM, live record.Record) error {
	for _, r := range live.Disks {
		d, err := hook.StartDisk(r)
		if err != nil {
			return err
		}
		needed, missing, err := vm.Reopened(ctx, d)
		var notHeld *hotplug.NotHeldError
		switch {
		case errors.As(err, &notHeld): // which was said
		case err != nil:
			return err
		case len(needed) == 0:
		case len(missing) == 0:
			c.good("disk %s: QEMU has the secret that it needs again where the migration fails", r.Target)
		case !c.prepare:
			c.bad("disk %s: where the migration fails late, QEMU needs its secret once more, and the guest loses the disk without it: give --prepare, and run 'luksplug repair' after the migration", r.Target)
		default:
			store, err := c.app.store(d.Disk)
			if err != nil {
				return err
			}
			given, err := vm.KeepSecrets(ctx, d, store)
			if err != nil {
				return err
			}
			c.good("disk %s: QEMU was given %s, for where the migration fails: run 'luksplug repair' after it", r.Target, strings.Join(given, ", "))
		}
	}
	return nil
}
