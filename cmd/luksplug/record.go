package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/domainxml"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// recorder keeps in the metadata of a libvirt domain what is attached to it. For
// a bare QEMU there is none, and nothing is recorded.
type recorder struct {
	domain     *domain
	disk       record.Disk
	persistent bool
	// written are the scopes that hold the disk because of this run.
	written []record.Scope
}

// recorder returns the recorder of an attach, nil where nothing is to be recorded.
func (a *app) recorder(disk *diskDocument, flags recordFlags, options hotplug.AttachOptions) (*recorder, error) {
	if a.libvirt == nil {
		return nil, nil
	}
	if disk.Transient {
		if flags.persistent {
			return nil, &blockgraph.UnsupportedError{Element: "disk/transient", Reason: "a transient disk does not belong to a domain for good: leave --persistent out, or <transient/>"}
		}
		a.log.WithField("disk", disk.Target).Warn("a transient disk is not recorded: detach it before the domain is saved or migrated, what was written to it cannot go along")
		return nil, nil
	}
	d, err := record.New(disk.text, disk.pools, disk.reading)
	if errors.Is(err, record.ErrSecretInXML) && !flags.persistent {
		a.log.WithField("disk", disk.Target).Warnf("the disk is not recorded, and is lost when the domain is saved and restored, or migrated: %v", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d.Optional, d.AllowSharedHeader, d.Relabel = flags.optional, options.AllowSharedHeader, options.Relabel
	return &recorder{domain: a.libvirt, disk: d, persistent: flags.persistent}, nil
}

// before records a disk that is about to be attached: in the domain first, so
// that no disk is in QEMU which nobody knows of. What it returns is kept on the
// host.
func (r *recorder) before(ctx context.Context, disk *blockgraph.Disk, p hotplug.Prepared) (string, error) {
	r.disk.Devices, r.disk.Start, r.disk.Owners = p.Devices, hotplug.StartWay(disk, p.Way), p.Owners
	if err := r.write(ctx, record.Live); err != nil {
		return "", err
	}
	if r.persistent {
		if err := r.write(ctx, record.Persistent); err != nil {
			return "", errors.Join(err, r.undo(ctx))
		}
	}
	text, err := json.Marshal(r.disk)
	return string(text), err
}

func (r *recorder) write(ctx context.Context, scope record.Scope) error {
	user, err := r.domain.user(ctx)
	if err != nil {
		return err
	}
	err = r.domain.changeRecord(ctx, scope, func(old record.Record) record.Record {
		if user != "" {
			old.User = user
		}
		return old.With(r.disk)
	})
	if err == nil {
		r.written = append(r.written, scope)
	}
	return err
}

// undo removes what was recorded of a disk that was not attached after all.
func (r *recorder) undo(ctx context.Context) error {
	var failed []error
	for _, scope := range slices.Backward(r.written) {
		failed = append(failed, r.domain.changeRecord(ctx, scope, func(old record.Record) record.Record { return old.Without(r.disk.Target) }))
	}
	r.written = nil
	return errors.Join(failed...)
}

// records is the domain's record at libvirt.
func (d *domain) records() record.Domain {
	return record.Domain{Libvirt: d.libvirt, Handle: d.handle}
}

// changeRecord changes what is recorded. The definition of a domain whose disks
// are plugged cold has them among QEMU's arguments as well.
func (d *domain) changeRecord(ctx context.Context, scope record.Scope, change func(record.Record) record.Record) error {
	if err := d.connected(ctx); err != nil {
		return err
	}
	old, err := d.records().Read(ctx, scope)
	if err != nil {
		return err
	}
	changed := change(old)
	if scope == record.Live || !old.ColdPlug {
		return d.records().Write(ctx, scope, changed)
	}
	return d.redefine(ctx, func(doc *domainxml.Document) (*domainxml.Document, error) {
		return hook.Definition{}.WithRecord(ctx, doc, changed)
	})
}

// recordState compares QEMU with what is recorded; nil for a VM that libvirt has not.
func (a *app) recordState(ctx context.Context, holdings []*hotplug.Holding) ([]record.State, error) {
	if a.libvirt == nil {
		return nil, nil
	}
	live, persistent, err := a.libvirt.readRecords(ctx)
	if err != nil {
		return nil, err
	}
	var attached []string
	for _, h := range holdings {
		if !h.Leftover() {
			attached = append(attached, h.Target)
		}
	}
	return record.Compare(attached, live, persistent), nil
}

// readRecords reads both records. A transient domain has no definition.
func (d *domain) readRecords(ctx context.Context) (live, persistent record.Record, err error) {
	if err = d.connected(ctx); err != nil {
		return live, persistent, err
	}
	if live, err = d.records().Read(ctx, record.Live); err != nil {
		return live, persistent, err
	}
	isPersistent, err := libvirtconn.Within(ctx, func() (int32, error) { return d.libvirt.DomainIsPersistent(d.handle) })
	if err != nil || isPersistent == 0 {
		return live, persistent, err
	}
	persistent, err = d.records().Read(ctx, record.Persistent)
	return live, persistent, err
}

// repairRecord makes the live record say what QEMU has, and returns what it has
// changed. A disk that is attached is recorded as its attach was; one that is not
// there is no longer recorded.
func (a *app) repairRecord(ctx context.Context, vm *hotplug.VM) ([]string, error) {
	if a.libvirt == nil {
		return nil, nil
	}
	holdings, err := vm.List(ctx)
	if err != nil {
		return nil, err
	}
	states, err := a.recordState(ctx, holdings)
	if err != nil {
		return nil, err
	}
	var done []string
	for _, s := range states {
		var change func(record.Record) record.Record
		switch {
		case !s.Attached && s.Live:
			change = func(r record.Record) record.Record { return r.Without(s.Target) }
			done = append(done, s.Target+": removed from the domain's metadata, since it is not attached")
		case s.Attached && !s.Live:
			kept, ok := keptRecord(holdings, s.Target)
			if !ok {
				a.log.WithField("disk", s.Target).Warn("it is not in the domain's metadata, and this host does not know its XML: detach and attach it again")
				continue
			}
			change = func(r record.Record) record.Record { return r.With(kept) }
			done = append(done, s.Target+": written into the domain's metadata")
		default:
			continue
		}
		if err := a.libvirt.changeRecord(ctx, record.Live, change); err != nil {
			return done[:len(done)-1], err
		}
	}
	return done, nil
}

// keptRecord returns what the attach of a disk has had kept on this host.
func keptRecord(holdings []*hotplug.Holding, target string) (record.Disk, bool) {
	for _, h := range holdings {
		var d record.Disk
		if h.Target == target && h.Kept != "" && json.Unmarshal([]byte(h.Kept), &d) == nil && d.Target == target {
			return d, true
		}
	}
	return record.Disk{}, false
}

// recording bounds what is done to records after a failure.
const recording = 10 * time.Second

// forgetRecord removes a disk that was detached from what is recorded.
func (a *app) forgetRecord(ctx context.Context, target string, persistent bool) error {
	if a.libvirt == nil {
		return nil
	}
	scopes := []record.Scope{record.Live}
	if persistent {
		scopes = append(scopes, record.Persistent)
	}
	for _, scope := range scopes {
		err := a.libvirt.changeRecord(ctx, scope, func(r record.Record) record.Record { return r.Without(target) })
		if err != nil {
			return fmt.Errorf("disk %s is detached, but still recorded (luksplug repair mends that): %w", target, err)
		}
	}
	return nil
}
