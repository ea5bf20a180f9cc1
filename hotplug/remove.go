package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/luksplug/luksplug/qmp"
)

// repeat runs a command that removes something until QEMU has answered it: a
// removal that got no answer is asked for again, and what is not there any more
// is removed.
func (vm *VM) repeat(ctx context.Context, cmd qmp.Command, gone error) error {
	for {
		_, err := vm.client.Execute(ctx, cmd)
		var unknown *qmp.UnknownOutcomeError
		switch {
		case err == nil, errors.Is(err, gone):
			return nil
		case ctx.Err() != nil:
			return err
		case errors.As(err, &unknown), lost(err):
			if err := vm.reconnect(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func (vm *VM) deleteObject(ctx context.Context, id string) error {
	return vm.repeat(ctx, qmp.Command{Execute: "object-del", Arguments: qmp.Object{{Name: "id", Value: id}}}, qmp.ErrObjectNotFound)
}

func (vm *VM) removeFDSet(ctx context.Context, id int64) error {
	return vm.repeat(ctx, qmp.Command{Execute: "remove-fd", Arguments: qmp.Object{{Name: "fdset-id", Value: id}}}, qmp.ErrFDSetNotFound)
}

func (vm *VM) removeChardev(ctx context.Context, id string) error {
	return vm.repeat(ctx, qmp.Command{Execute: "chardev-remove", Arguments: qmp.Object{{Name: "id", Value: id}}}, qmp.ErrChardevNotFound)
}

// How long a node may stay in use after its device has gone: the device's last
// reference is dropped a moment after it has left the guest.
const (
	inUseWait = 2 * time.Second
	inUsePoll = 5 * time.Millisecond
)

func (vm *VM) deleteNode(ctx context.Context, name string) error {
	cmd := qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{Name: "node-name", Value: name}}}
	deadline := time.Now().Add(inUseWait)
	for {
		err := vm.repeat(ctx, cmd, qmp.ErrNodeNotFound)
		if !errors.Is(err, qmp.ErrNodeInUse) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(inUsePoll):
		}
	}
}

// How often the guest is asked again to release a device. A request is lost
// while no operating system runs; asking again while one works on it does no
// harm, QEMU refuses that by itself.
const unplugAgain = 3 * time.Second

// errRejected: the guest said that it does not release the device.
var errRejected = errors.New("the guest has rejected the unplug request")

// unplug asks the guest to release a device and waits until it is gone from
// QEMU, or until ctx ends; the error is then that of ctx, or errRejected.
func (vm *VM) unplug(ctx context.Context, id string) error {
	for {
		err := vm.unplugOn(ctx, id)
		if err == nil || ctx.Err() != nil || !lost(err) {
			return err
		}
		// Events were missed while the connection was gone: begin again, which
		// also asks whether the device is still there.
		if err := vm.reconnect(ctx); err != nil {
			return err
		}
	}
}

// unplugOn is unplug on one connection.
func (vm *VM) unplugOn(ctx context.Context, id string) error {
	events := vm.client.Subscribe("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", "RESUME", "RESET")
	defer events.Close()
	request := qmp.Command{Execute: "device_del", Arguments: qmp.Object{{Name: "id", Value: id}}}
	again := time.NewTicker(unplugAgain)
	defer again.Stop()
	rejected := false
	for {
		err := vm.neverRan(ctx, id)
		if err == nil {
			_, err = vm.client.Execute(ctx, request)
		}
		switch {
		case err == nil, errors.Is(err, qmp.ErrUnplugPending), errors.Is(err, errNeverRan):
		case errors.Is(err, qmp.ErrDeviceNotFound):
			return nil
		default:
			return err
		}
		// An event that says why to ask again, or the next tick.
	wait:
		for {
			select {
			case <-ctx.Done():
				if rejected {
					return errRejected
				}
				return ctx.Err()
			case <-again.C:
				break wait
			case e, open := <-events.Events():
				switch {
				case !open:
					return qmp.ErrConnectionLost
				case e.Event == "RESUME", e.Event == "RESET":
					break wait
				case !concerns(e, id):
				case e.Event == "DEVICE_DELETED":
					return nil
				default:
					rejected = true
				}
			}
		}
	}
}

// errNeverRan: a request would be lost for good, see neverRan.
var errNeverRan = errors.New("the VM has not run yet")

// neverRan returns errNeverRan for a PCI device of a VM that was started with
// -S and has not run yet. Nobody is there to hear a request, and QEMU (10.0.2
// with ACPI hot plug) would take it for pending until a reset: the time at which
// it may be repeated is that of the guest's clock, which stands at 0 then, and 0
// stands for never. Once the VM runs, asking works.
func (vm *VM) neverRan(ctx context.Context, id string) error {
	if vm.runState(ctx) != "prelaunch" {
		return nil
	}
	kind := qomGet(peripheral+id, "type")
	value, err := vm.query(ctx, kind)
	if err != nil {
		return nil // no such device, as a rule: device_del tells
	}
	var name string
	if err := decode(value, &name, kind); err != nil {
		return err
	}
	if strings.Contains(name, "-pci") { // SCSI and USB disks go without being asked
		return errNeverRan
	}
	return nil
}

// concerns tells whether an event is about the device itself. QEMU sends two
// DEVICE_DELETED for a virtio-blk-pci: the first, without an id, for a part of
// the device, when its node is still in use. A libvirt in between may pass on
// the path only.
func concerns(e qmp.Event, id string) bool {
	if device, ok := e.Data["device"].(string); ok {
		return device == id
	}
	path, _ := e.Data["path"].(string)
	return path == peripheral+id
}

// runState returns the VM's run state, "" when it cannot be asked.
func (vm *VM) runState(ctx context.Context) string {
	value, err := vm.query(ctx, qmp.Command{Execute: "query-status"})
	var status struct{ Status string }
	if err != nil || json.Unmarshal(value, &status) != nil {
		return ""
	}
	return status.Status
}

// remove takes away everything of a holding but its device: nodes from the top
// down, objects, descriptor sets. It tries them all and returns the first
// error.
func (vm *VM) remove(ctx context.Context, h *Holding) error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	nodes := slices.Clone(h.Nodes)
	for len(nodes) > 0 {
		// The newest come first, which is parents before children; where that
		// does not hold (a node was replaced), another round helps.
		left := nodes[:0:0]
		var failed error
		for _, name := range nodes {
			if err := vm.deleteNode(ctx, name); err != nil {
				left = append(left, name)
				if failed == nil {
					failed = err
				}
			}
		}
		if len(left) == len(nodes) {
			keep(failed)
			break
		}
		nodes = left
	}
	for _, id := range h.Chardevs {
		keep(vm.removeChardev(ctx, id))
	}
	for _, id := range h.Objects {
		keep(vm.deleteObject(ctx, id))
	}
	for _, id := range h.FDSets {
		keep(vm.removeFDSet(ctx, id))
	}
	keep(vm.tidy(ctx, h.Target))
	return first
}

// tidy removes what there is on this host for a disk that the VM does not have
// any more: a storage daemon, what was handed over, what was given, the note. Doing it again does
// no harm.
func (vm *VM) tidy(ctx context.Context, target string) error {
	if !vm.filesAreLocal() {
		return nil
	}
	if err := vm.stopDaemon(ctx, target); err != nil {
		return err
	}
	return errors.Join(vm.forbid(ctx, target), vm.forget(ctx, target))
}
