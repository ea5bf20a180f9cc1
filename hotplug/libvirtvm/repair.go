package libvirtvm

import (
	"context"
	"errors"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Repaired is the result of a repair.
type Repaired struct {
	// Removed are the leftovers of interrupted runs that were removed from the VM.
	Removed []*hotplug.AttachedDisk
	// Fixed are the disks whose live record was fixed, as they were before: it was
	// written for those that are attached, and removed for the others.
	Fixed []State
	// Off is true if the domain is off: nothing of it is in a QEMU.
	Off bool
	// Redefined are the targets of the disks whose arguments for QEMU in the definition were
	// made again, because they differed from the record.
	Redefined []string
}

// Repair removes leftovers of interrupted runs from the VM, as [hotplug.VM.Repair] does,
// and makes the live metadata match the attached disks. A disk is recorded as its attach
// on this host recorded it; a disk that this host does not know is reported in the log. A
// record of another volume than the disk uses, also that of the definition, is made that of
// the disk's.
// The result is valid also with an error.
//
// Of a domain that is off it makes QEMU's arguments in the definition match the record,
// where disks are plugged cold.
func (d *Domain) Repair(ctx context.Context) (*Repaired, error) {
	running, err := d.running(ctx)
	if err != nil {
		return &Repaired{}, err
	}
	if !running {
		return repairOff(ctx, d, d.log)
	}
	vm, err := d.VM(ctx)
	if err != nil {
		return &Repaired{}, err
	}
	removed, err := vm.Repair(ctx)
	out := &Repaired{Removed: removed}
	disks, e := vm.List(ctx)
	if e == nil {
		e = out.records(ctx, d, disks, d.log)
	}
	return out, errors.Join(err, e)
}

// repairOff is Repair for a domain that is off.
func repairOff(ctx context.Context, at descriptions, log logrus.FieldLogger) (*Repaired, error) {
	out := &Repaired{Off: true}
	doc, err := at.definition(ctx)
	if err != nil {
		return out, err
	}
	r, err := record.FromDomain(doc)
	if err != nil || len(r.Disks) == 0 {
		return out, err
	}
	if err := verify(at, r); err != nil {
		log.WithField(hotplug.CauseField, err).Warn(err)
		return out, nil
	}
	after, err := withRecord(ctx, doc, r)
	if err != nil || slices.Equal(doc.Arguments(), after.Arguments()) {
		return out, err
	}
	if err := at.define(ctx, after); err != nil {
		return out, err
	}
	out.Redefined = slices.Concat(domainxml.Targets(doc.Arguments()), domainxml.Targets(after.Arguments()))
	slices.Sort(out.Redefined)
	out.Redefined = slices.Compact(out.Redefined)
	return out, nil
}

// records makes the live metadata match the attached disks.
func (r *Repaired) records(ctx context.Context, at descriptions, disks []*hotplug.AttachedDisk, log logrus.FieldLogger) error {
	all, err := states(ctx, at, disks)
	if err != nil {
		return err
	}
	live, err := at.read(ctx, Live)
	if err != nil {
		return err
	}
	if err := verify(at, live); err != nil && len(live.Disks) > 0 {
		log.WithField(hotplug.CauseField, err).Warn(err)
	}
	byTarget := make(map[string]*hotplug.AttachedDisk, len(disks))
	for _, d := range disks {
		byTarget[d.Target] = d
	}
	for _, s := range all {
		switch {
		case !s.Attached && s.Live:
			if err := forget(ctx, at, Live, s.Target); err != nil {
				return err
			}
		case s.Attached && s.OtherVolume:
			if err := volumeInUse(ctx, at, byTarget[s.Target]); err != nil {
				return err
			}
		case s.Attached && !s.Live:
			kept := keptRecord(byTarget[s.Target])
			if kept == nil {
				log.WithField("disk", s.Target).Warn("it is not in the domain's metadata, and this host does not know its XML: detach and attach it again")
				continue
			}
			if err := rewrite(ctx, at, Live, func(old record.Record) record.Record { return old.With(*kept) }); err != nil {
				return err
			}
		default:
			continue
		}
		r.Fixed = append(r.Fixed, s)
	}
	return nil
}

// volumeInUse makes the records of an attached disk those of the volume that it uses.
func volumeInUse(ctx context.Context, at descriptions, disk *hotplug.AttachedDisk) error {
	kept := keptRecord(disk)
	live, persistent, err := readBoth(ctx, at)
	if err != nil {
		return err
	}
	was, defined := live.Disk(disk.Target), persistent.Disk(disk.Target)
	if was == nil {
		return nil // it was detached meanwhile
	}
	if defined != nil && sameVolume(*defined, *was) {
		if err := rewrite(ctx, at, Persistent, func(old record.Record) record.Record { return old.With(*kept) }); err != nil {
			return err
		}
	}
	return rewrite(ctx, at, Live, func(old record.Record) record.Record { return old.With(*kept) })
}
