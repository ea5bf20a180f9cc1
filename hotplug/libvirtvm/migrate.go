package libvirtvm

import (
	"context"
	"errors"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/secrets"
)

// MigrateOptions are the options of a migration check.
type MigrateOptions struct {
	// Shell is the command that runs others on the destination, such as "ssh", "vmhost2";
	// nil for the one that the destination's URI implies, if any.
	Shell []string
	// Prepare returns the store of a disk's secrets. If it is not nil, QEMU is given the
	// secrets that it needs again if the migration fails. They stay in QEMU until
	// [Domain.Repair] removes them. Nothing is changed without it.
	Prepare func(disk *blockgraph.Disk) (secrets.Store, error)
}

// MigrateCheck reports whether the running domain could be migrated to the libvirt at the
// URI to: whether the attached disks are recorded, whether the destination knows QEMU and
// its machine, and whether it has luksplug's hook, the images and the keys. libvirt does
// not report the latter: luksplug is run there.
//
// The error is about the source or an invalid URI; problems of the destination are in the
// report.
func (d *Domain) MigrateCheck(ctx context.Context, to string, options MigrateOptions) (Report, error) {
	uri, err := libvirtconn.Parse(to)
	if err != nil {
		return Report{}, err
	}
	c := &migrateCheck{domain: d, options: options}
	if c.vm, err = d.VM(ctx); err != nil {
		return Report{}, err
	}
	if err := c.source(ctx); err != nil {
		return Report{}, err
	}
	if err := c.destination(ctx, uri); err != nil {
		return Report{}, err
	}
	return c.Report, c.secrets(ctx)
}

// migrateCheck is one check of a domain and its destination.
type migrateCheck struct {
	Report
	domain  *Domain
	vm      *hotplug.VM
	options MigrateOptions
	doc     *domainxml.Document // the running domain's
	live    record.Record
}

// source checks the attached disks and their records.
func (c *migrateCheck) source(ctx context.Context) error {
	disks, err := c.vm.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range disks {
		if h.Leftover() {
			c.Badf("disk %s: an interrupted run has left %s: run 'luksplug repair'", h.Target, strings.Join(h.Left(), ", "))
		}
	}
	all, err := c.domain.States(ctx, disks)
	if err != nil {
		return err
	}
	for _, s := range all {
		switch {
		case s.Attached && !s.Live, !s.Attached && s.Live:
			c.Badf("disk %s: %s: run 'luksplug repair'", s.Target, s.Difference())
		case s.Attached:
			c.Goodf("disk %s is recorded in the domain's metadata", s.Target)
		}
	}
	if c.doc, err = c.domain.describe(ctx); err != nil {
		return err
	}
	c.live, err = record.FromDomain(c.doc)
	return err
}

// secrets checks the secrets that QEMU needs again if the migration fails, and gives them to it.
func (c *migrateCheck) secrets(ctx context.Context) error {
	for _, r := range c.live.Disks {
		d, err := coldstart.RecordedDisk(c.doc, r)
		if err != nil {
			return err
		}
		needed, missing, err := c.vm.MissingSecrets(ctx, d)
		var notHeld *hotplug.NotHeldError
		switch {
		case errors.As(err, &notHeld): // which is a finding already
		case err != nil:
			return err
		case len(needed) == 0:
		case len(missing) == 0:
			c.Goodf("disk %s: QEMU has the secret that it needs again if the migration fails", r.Target)
		case c.options.Prepare == nil:
			c.add(Finding{Cause: CauseSecretNeeded}, "disk %s: if the migration fails late, QEMU needs its secret once more, and the guest loses the disk without it", []any{r.Target})
		default:
			if err := CheckClear(c.domain.uri.String(), d.Disk); err != nil {
				return err
			}
			store, err := c.options.Prepare(d.Disk)
			if err != nil {
				return err
			}
			given, err := c.vm.KeepSecrets(ctx, d, store)
			if err != nil {
				return err
			}
			c.Goodf("disk %s: QEMU was given %s, in case the migration fails: run 'luksplug repair' after it", r.Target, strings.Join(given, ", "))
		}
	}
	return nil
}
