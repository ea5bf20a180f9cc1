package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// Repair removes leftovers of interrupted runs, of every target, and returns what it
// removed. From attached disks it removes only secrets, which QEMU no longer needs once
// the guest runs, see [Started], and the other volume of a copy that has ended.
func (vm *VM) Repair(ctx context.Context) ([]*AttachedDisk, error) {
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	disks := state.Disks()
	leftovers := slices.DeleteFunc(slices.Clone(disks), func(d *AttachedDisk) bool { return !d.Leftover() })
	var removed []*AttachedDisk
	var failed []error
	left := map[string]error{}
	if len(leftovers) > 0 {
		if _, left, err = vm.clearAll(ctx, leftovers); err != nil {
			failed = append(failed, err)
			disks = slices.DeleteFunc(disks, (*AttachedDisk).Leftover) // it is not known which are left
		}
	}
	for _, disk := range disks {
		if err := ctx.Err(); err != nil {
			failed = append(failed, fmt.Errorf("disk %s: %w", disk.Target, err))
			break
		}
		gone, err := disk, left[disk.Target]
		if !disk.Leftover() {
			gone, err = vm.removeFromDisk(ctx, disk, state)
		}
		if err != nil {
			failed = append(failed, err)
		} else if gone != nil {
			removed = append(removed, gone)
		}
	}
	given, err := vm.cleanUpHost(ctx, state)
	return append(removed, given...), errors.Join(append(failed, err)...)
}

// cleanUpHost removes what this host has for disks that the VM does not have: a run was
// interrupted before it changed the VM, or the VM was restarted. It returns the images
// that were returned to their owners.
func (vm *VM) cleanUpHost(ctx context.Context, state *State) ([]*AttachedDisk, error) {
	if !vm.host.Local {
		return nil, nil
	}
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return nil, err
	}
	var failed []error
	there := state.Instances()
	for instance := range dir.Notes() {
		if !there[instance] {
			failed = append(failed, dir.Disk(instance).Forget())
		}
	}
	given, err := grant.Revoke(ctx, vm.host, grant.Revocation{Targets: func(instance string) bool { return !there[instance] }})
	var out []*AttachedDisk
	for _, g := range given {
		out = append(out, &AttachedDisk{Target: blockgraph.TargetOf(g.Use.Target), Given: []string{g.Path}})
	}
	return out, errors.Join(append(failed, err)...)
}

// removeFromDisk removes what an attached disk does not need, and returns it as an AttachedDisk, nil for none.
func (vm *VM) removeFromDisk(ctx context.Context, disk *AttachedDisk, state *State) (*AttachedDisk, error) {
	gone, err := vm.removeSecrets(ctx, disk, state)
	if err != nil || disk.Copy == nil {
		return gone, err
	}
	c, err := vm.copyOf(ctx, disk)
	if err != nil || c.Phase != CopyEnded {
		return gone, err
	}
	if err := vm.endCopy(ctx, c); err != nil {
		return gone, err
	}
	if gone == nil {
		gone = &AttachedDisk{Target: disk.Target}
	}
	gone.Copy = disk.Copy
	return gone, nil
}

// removeSecrets removes the secrets of an attached disk, and returns them as an
// AttachedDisk, nil for none.
func (vm *VM) removeSecrets(ctx context.Context, disk *AttachedDisk, state *State) (*AttachedDisk, error) {
	left := &AttachedDisk{Target: disk.Target}
	for _, id := range disk.Objects {
		if state.Objects[id] == "secret" {
			left.Objects = append(left.Objects, id)
		}
	}
	if len(left.Objects) == 0 {
		return nil, nil
	}
	if apply.RunState(ctx, vm.conn) != "running" {
		return nil, nil // a restored VM opens its images when it is resumed
	}
	migrating, err := vm.migrating(ctx)
	if err != nil {
		return nil, err
	}
	if migrating {
		return nil, fmt.Errorf("disk %s: QEMU may need its secrets again, which are not removed: %w", disk.Target, ErrMigrating)
	}
	for _, id := range left.Objects {
		if err := apply.DeleteObject(ctx, vm.conn, id); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// ErrMigrating reports that the VM is being migrated to another host.
var ErrMigrating = errors.New("the VM is being migrated")

// migrating reports whether the VM is being migrated to another host (QEMU's
// query-migrate).
func (vm *VM) migrating(ctx context.Context) (bool, error) {
	info, err := monitor.Get[struct{ Status string }](ctx, vm.conn, qmp.Command{Execute: "query-migrate"})
	if err != nil {
		return false, err
	}
	return !slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, info.Status), nil
}
