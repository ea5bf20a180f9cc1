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
	// unverified is true if nothing is done on the record's word.
	unverified bool
}

// source checks the attached disks and their records.
func (c *migrateCheck) source(ctx context.Context) error {
	list, err := c.domain.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range list.Disks {
		if h.Leftover() {
			c.Badf("disk %s: an interrupted run has left %s: run 'luksplug repair'", h.Target, strings.Join(h.Left(), ", "))
		}
	}
	for _, s := range list.States {
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
	if c.live, err = record.FromDomain(c.doc); err != nil {
		return err
	}
	return c.signature()
}

// signature checks that the record verifies on this host, and remembers the fingerprint of
// its key.
func (c *migrateCheck) signature() error {
	s, err := c.domain.verifier()
	switch {
	case err != nil && !errors.Is(err, ErrUnverified):
		return err
	case err != nil:
		c.Badf("%v", err)
	case s.Key == nil:
		c.Uncheckedf("whether the domain's record is signed, and by the destination's key: %v", ErrNotHere)
		return nil
	default:
		c.RecordKey = s.Key.Fingerprint()
		err = s.Verify(c.live)
		if err != nil {
			c.add(Finding{Cause: CauseUnverified}, "%v", []any{err})
		}
	}
	c.unverified = err != nil
	return nil
}

// compareKeys compares the key of the destination, by its fingerprint.
func (c *migrateCheck) compareKeys(there string) {
	switch {
	case c.RecordKey == "":
	case there == "":
		c.Badf("the destination has no key for records, or a luksplug that signs none: copy %s of this host to it", record.SystemKey)
	case there != c.RecordKey:
		c.Badf("the destination has another key for records (%s, and here %s): copy %s of this host to it", there, c.RecordKey, record.SystemKey)
	default:
		c.Goodf("the destination has the same key for records (%s)", there)
	}
}

// secrets checks the secrets that QEMU needs again if the migration fails, and gives them to it.
func (c *migrateCheck) secrets(ctx context.Context) error {
	if c.unverified {
		return nil
	}
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
