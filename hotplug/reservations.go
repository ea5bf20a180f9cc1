package hotplug

import (
	"context"
	"errors"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/daemon"
)

// managed returns the image whose reservations luksplug has to manage, nil for
// none: only a LUN has some, and that has one layer.
func managed(disk *blockgraph.Disk) *blockgraph.Reservations {
	if r := disk.Image.Source.Reservations; r != nil && r.Managed {
		return r
	}
	return nil
}

// withHelper returns the disk with the socket of the helper that is, or will be,
// there for it. libvirt has one helper for all disks of a VM; with one for each
// disk, none has to be counted.
func (vm *VM) withHelper(ctx context.Context, disk *blockgraph.Disk) (*blockgraph.Disk, error) {
	if managed(disk) == nil {
		return disk, nil
	}
	if !vm.filesAreLocal() {
		return nil, &PreflightError{Target: disk.Target, Reason: "managed reservations need a qemu-pr-helper beside the VM, which is on another machine: start one there, and name its socket with managed='no'"}
	}
	dir, err := vm.handOverPath(ctx, disk.Target)
	if err != nil {
		return nil, err
	}
	out := *disk
	out.Image.Source.Reservations = &blockgraph.Reservations{Managed: true, Socket: daemon.HelperSocket(dir)}
	return &out, nil
}

// startHelper starts the helper of a disk's reservations, to which QEMU's user
// may connect. It ends with the disk ([VM.stopDaemon]), or with the VM.
func (a *attach) startHelper(ctx context.Context) error {
	owner, dir, err := a.placeBeside(ctx, "a reservation helper")
	if err != nil {
		return err
	}
	info, err := daemon.StartHelper(ctx, daemon.HelperOptions{Dir: dir, User: owner.User})
	if err != nil {
		return &PreflightError{Target: a.disk.Target, Reason: "the reservation helper does not start", Err: err}
	}
	if a.vm.opts.OnDaemon == nil {
		return nil
	}
	if err := a.vm.opts.OnDaemon(ctx, Daemon{Info: info, VM: owner.PID}); err != nil {
		after, cancel := a.vm.recovery(ctx)
		defer cancel()
		return errors.Join(err, daemon.Stop(after, dir))
	}
	return nil
}
