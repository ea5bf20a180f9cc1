package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
)

// DetachOptions are the options of a detach.
type DetachOptions struct {
	// DetachOptions are those of the VM; without an Agent, libvirt asks the domain's.
	hotplug.DetachOptions
	// Persistent also removes the disk from the definition of a running domain. The disk
	// may already be unplugged. A domain that is off has its disks in its definition only:
	// they are removed from it in any case.
	Persistent bool
	// IgnoreMissing makes the detach of a disk that is not attached a success.
	IgnoreMissing bool
}

// Detached is the result of a detach.
type Detached struct {
	hotplug.Detached
	// Off is true if the domain is off: the disk was in its definition only.
	Off bool
}

// definitionPart names the disk in the definition, among the removed parts.
const definitionPart = "the disk from the domain's definition"

// Detach unplugs the disk at target, as [hotplug.VM.Detach] does, and removes its
// records. From a domain that is off it removes the record. The errors are those of
// hotplug.VM.Detach, and wrap [ErrStillRecorded].
func (d *Domain) Detach(ctx context.Context, target string, options DetachOptions) (*Detached, error) {
	if err := hotplug.CheckTarget(target); err != nil {
		return nil, err
	}
	running, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	if !running {
		return detachOff(ctx, d, target, options)
	}
	vm, err := d.VM(ctx)
	if err != nil {
		return nil, err
	}
	if options.Agent == nil {
		options.Agent = d.agent
	}
	out := &Detached{}
	detached, err := vm.Detach(ctx, target, options.DetachOptions)
	var missing *hotplug.NotHeldError
	switch {
	case err == nil:
		out.Detached = *detached
	case errors.As(err, &missing) && (options.Persistent || options.IgnoreMissing):
		out.Target = target
	default:
		return nil, err
	}
	if err := forgetDetached(ctx, d, out, options); err != nil {
		return nil, fmt.Errorf("disk %s %w: %w", target, ErrStillRecorded, err)
	}
	if missing != nil && len(out.Removed) == 0 && !options.IgnoreMissing {
		return nil, missing
	}
	return out, nil
}

// forgetDetached removes the records of a disk that is not attached any longer, and adds
// the definition to what was removed.
func forgetDetached(ctx context.Context, at descriptions, out *Detached, options DetachOptions) error {
	if err := forget(ctx, at, Live, out.Target); err != nil || !options.Persistent {
		return err
	}
	old, err := at.read(ctx, Persistent)
	if err != nil || old.Disk(out.Target) == nil {
		return err
	}
	if err := forget(ctx, at, Persistent, out.Target); err != nil {
		return err
	}
	out.Removed = append(out.Removed, definitionPart)
	return nil
}

// ErrStillRecorded reports that a disk was detached, but is still recorded.
// [Domain.Repair] removes the record.
var ErrStillRecorded = errors.New("is detached, but still recorded (luksplug repair fixes that)")

// detachOff removes a disk from the definition of a domain that is off.
func detachOff(ctx context.Context, at descriptions, target string, options DetachOptions) (*Detached, error) {
	out := &Detached{Detached: hotplug.Detached{Target: target}, Off: true}
	old, err := at.read(ctx, Persistent)
	if err != nil {
		return nil, err
	}
	if old.Disk(target) == nil && options.IgnoreMissing {
		return out, nil
	}
	if old.Disk(target) == nil {
		return nil, notRecorded(ctx, at, target, old.Targets())
	}
	if err := forget(ctx, at, Persistent, target); err != nil {
		return nil, err
	}
	out.Removed = []string{definitionPart}
	return out, nil
}

// notRecorded is the error for a disk that does not belong to a domain that is off.
func notRecorded(ctx context.Context, at descriptions, target string, held []string) error {
	doc, err := at.definition(ctx)
	if err != nil {
		return err
	}
	m, err := diskxml.ParseDomain(doc.Text())
	if err != nil {
		return fmt.Errorf("the definition of domain %s: %w", doc.Name(), err)
	}
	foreign := slices.ContainsFunc(m.Disks, func(d blockgraph.OtherDisk) bool { return d.Target == target })
	return &hotplug.NotHeldError{Target: target, Held: held, VM: doc.Name() + ", which is off,", Foreign: foreign}
}
