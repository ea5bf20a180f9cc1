package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/hotplug"
)

// DetachOptions are the options of a detach.
type DetachOptions struct {
	// Wait bounds the wait for the guest to release the device.
	Wait time.Duration
	// Persistent also removes the disk from the domain's definition. The domain may be
	// off, and the disk may already be unplugged.
	Persistent bool
	// IgnoreMissing makes the detach of a disk that is not attached a success.
	IgnoreMissing bool
}

// Detach unplugs the disk at target, as [hotplug.VM.Detach] does, and removes its
// records. The errors are those of hotplug.VM.Detach, and wrap [ErrStillRecorded].
func (d *Domain) Detach(ctx context.Context, target string, options DetachOptions) (*hotplug.Detached, error) {
	if options.Persistent {
		running, err := d.running(ctx)
		if err != nil {
			return nil, err
		}
		if !running {
			return detachOff(ctx, d, target)
		}
	}
	vm, err := d.VM(ctx)
	if err != nil {
		return nil, err
	}
	detached, err := vm.Detach(ctx, target, options.Wait)
	var missing *hotplug.NotHeldError
	if errors.As(err, &missing) && (options.Persistent || options.IgnoreMissing) {
		detached, err = &hotplug.Detached{Target: target}, nil
	}
	if err != nil {
		return nil, err
	}
	scopes := []Scope{Live}
	if options.Persistent {
		scopes = append(scopes, Persistent)
	}
	for _, scope := range scopes {
		if err := forget(ctx, d, scope, target); err != nil {
			return nil, fmt.Errorf("disk %s %w: %w", target, ErrStillRecorded, err)
		}
	}
	return detached, nil
}

// ErrStillRecorded reports that a disk was detached, but is still recorded.
// [Domain.Repair] removes the record.
var ErrStillRecorded = errors.New("is detached, but still recorded (luksplug repair fixes that)")

// detachOff removes a disk from the definition of a domain that is off.
func detachOff(ctx context.Context, at descriptions, target string) (*hotplug.Detached, error) {
	old, err := at.read(ctx, Persistent)
	if err != nil {
		return nil, err
	}
	if old.Disk(target) == nil {
		return nil, &hotplug.NotHeldError{Target: target, Held: old.Targets()}
	}
	if err := forget(ctx, at, Persistent, target); err != nil {
		return nil, err
	}
	return &hotplug.Detached{Target: target, Removed: []string{"the disk from the domain's definition"}}, nil
}
