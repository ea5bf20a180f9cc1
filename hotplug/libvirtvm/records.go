package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// redefine changes the definition.
func redefine(ctx context.Context, at descriptions, change func(*domainxml.Document) (*domainxml.Document, error)) error {
	doc, err := at.definition(ctx)
	if err != nil {
		return err
	}
	if doc, err = change(doc); err != nil {
		return err
	}
	return at.define(ctx, doc)
}

// rewrite changes the record. The definition of a domain whose disks are plugged cold has
// them among QEMU's arguments as well. A record that does not verify is not changed: the
// error wraps [ErrUnverified].
func rewrite(ctx context.Context, at descriptions, scope Scope, change func(record.Record) record.Record) error {
	old, err := at.read(ctx, scope)
	if err != nil {
		return err
	}
	next, err := changed(at, old, change)
	if err != nil {
		return err
	}
	return put(ctx, at, scope, next)
}

// changed returns a record that was changed and signed again.
func changed(at descriptions, old record.Record, change func(record.Record) record.Record) (record.Record, error) {
	if len(old.Disks) == 0 {
		old.User = "" // an empty record may be unsigned
	} else if err := verify(at, old); err != nil {
		return old, err
	}
	return sign(at, change(old))
}

// put writes a record, which is signed, as rewrite does.
func put(ctx context.Context, at descriptions, scope Scope, r record.Record) error {
	if scope == Persistent {
		now, err := at.read(ctx, scope)
		if err != nil {
			return err
		}
		if now.ColdPlug || r.ColdPlug {
			return redefine(ctx, at, func(doc *domainxml.Document) (*domainxml.Document, error) {
				return withRecord(ctx, doc, r)
			})
		}
	}
	return at.write(ctx, scope, r)
}

// forget removes the record of a disk. The rest of a record that does not verify stays, and
// stays without a signature: a disk that is gone must not be recorded any longer.
func forget(ctx context.Context, at descriptions, scope Scope, target string) error {
	old, err := at.read(ctx, scope)
	if err != nil || old.Disk(target) == nil {
		return err
	}
	failed := verify(at, old)
	if failed == nil {
		return rewrite(ctx, at, scope, func(r record.Record) record.Record { return r.Without(target) })
	}
	rest := old.Without(target)
	if !errors.Is(failed, ErrUnverified) || scope == Persistent && old.ColdPlug && len(rest.Disks) > 0 {
		return failed // QEMU's arguments would be made of the rest
	}
	return put(ctx, at, scope, rest)
}

// readBoth reads the records in both descriptions.
func readBoth(ctx context.Context, at descriptions) (live, persistent record.Record, err error) {
	if live, err = at.read(ctx, Live); err != nil {
		return live, persistent, err
	}
	persistent, err = at.read(ctx, Persistent)
	return live, persistent, err
}

// withRecord puts a record, which is signed, into a definition and, where disks are plugged cold,
// those of its disks among QEMU's arguments that the domain cannot start without.
func withRecord(ctx context.Context, doc *domainxml.Document, r record.Record) (*domainxml.Document, error) {
	arguments := domainxml.Foreign(doc.Arguments())
	starting := coldstart.New(doc.UUID(), coldstart.Options{})
	for _, disk := range r.Disks {
		if !r.ColdPlug || disk.Optional {
			continue
		}
		start, err := coldstart.RecordedDisk(doc, disk)
		if err != nil {
			return nil, err
		}
		ours, err := starting.Arguments(ctx, start)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", disk.Target, err)
		}
		arguments = append(arguments, ours.Arguments...)
	}
	doc, err := doc.WithArguments(arguments)
	if err != nil {
		return nil, err
	}
	if r.Empty() {
		return doc.WithMetadata(record.Namespace, nil)
	}
	if old, err := record.FromDomain(doc); err == nil && reflect.DeepEqual(old, r) {
		return doc, nil // in libvirt's own layout
	}
	text, err := r.XML()
	if err != nil {
		return nil, err
	}
	return doc.WithMetadata(record.Namespace, []byte(text))
}
