package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/qmp"
)

// Started is a disk that the VM was started with; see package coldstart.
type Started struct {
	Target string
	// Limits are the Limits of its [coldstart.Arguments], nil for none.
	Limits blockgraph.Object
	// Keep are the ids of secrets that stay in QEMU: Reopened of its Arguments, for a VM
	// whose guest has run before. [VM.Repair] removes them once the VM runs again.
	Keep []string
}

// FinishStart completes the start of disks that the VM was started with, as an attach
// does once its device exists: it removes their secrets from QEMU and sets their limits.
// It handles every disk even if others fail, and may be repeated.
func (vm *VM) FinishStart(ctx context.Context, disks []Started) error {
	lock, err := vm.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	state, err := vm.State(ctx)
	if err != nil {
		return err
	}
	var failed []error
	there := disksOf(state)
	for _, d := range disks {
		if err := vm.finishStart(ctx, state, there[d.Target], d); err != nil {
			failed = append(failed, fmt.Errorf("disk %s: %w", d.Target, err))
		}
	}
	return errors.Join(failed...)
}

// errNotStarted reports that the VM was started without the disk.
var errNotStarted = errors.New("the VM was not started with it")

func (vm *VM) finishStart(ctx context.Context, state *State, disk *AttachedDisk, d Started) error {
	if disk == nil || disk.Leftover() {
		return errNotStarted
	}
	for _, id := range disk.Objects {
		if state.Objects[id] != "secret" || slices.Contains(d.Keep, id) {
			continue
		}
		if err := apply.DeleteObject(ctx, vm.conn, id); err != nil {
			return err
		}
	}
	if d.Limits == nil {
		return nil
	}
	_, err := vm.conn.Execute(ctx, qmp.Command{Execute: "block_set_io_throttle", Arguments: d.Limits})
	return err
}
