package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
)

// takeBack undoes one step. What no longer exists counts as undone.
func takeBack(ctx context.Context, c *monitor.Conn, s blockgraph.Step) error {
	switch s.Kind {
	case blockgraph.StepNode:
		return deleteNode(ctx, c, s.Subject)
	case blockgraph.StepDevice:
		return unplug(ctx, c, s.Subject)
	case blockgraph.StepChardev:
		return removeChardev(ctx, c, s.Subject)
	case blockgraph.StepFDSet:
		id, _ := s.Undo.Arguments.Get("fdset-id").(int64) // package blockgraph's own type
		return removeFDSet(ctx, c, id)
	}
	return DeleteObject(ctx, c, s.Subject)
}

// DeleteObject deletes an object of the VM. A missing object counts as deleted.
func DeleteObject(ctx context.Context, c *monitor.Conn, id string) error {
	return c.Repeat(ctx, qmp.Command{Execute: "object-del", Arguments: qmp.Object{{Name: "id", Value: id}}}, qmp.ErrObjectNotFound)
}

func removeFDSet(ctx context.Context, c *monitor.Conn, id int64) error {
	return c.Repeat(ctx, qmp.Command{Execute: "remove-fd", Arguments: qmp.Object{{Name: "fdset-id", Value: id}}}, qmp.ErrFDSetNotFound)
}

func removeChardev(ctx context.Context, c *monitor.Conn, id string) error {
	return c.Repeat(ctx, qmp.Command{Execute: "chardev-remove", Arguments: qmp.Object{{Name: "id", Value: id}}}, qmp.ErrChardevNotFound)
}

// A node may stay in use for a moment after its device has left the guest, until the
// device drops its last reference. These bound the wait.
const (
	inUseWait = 2 * time.Second
	inUsePoll = 5 * time.Millisecond
)

func deleteNode(ctx context.Context, c *monitor.Conn, name string) error {
	cmd := qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{Name: "node-name", Value: name}}}
	deadline := time.Now().Add(inUseWait)
	for {
		err := c.Repeat(ctx, cmd, qmp.ErrNodeNotFound)
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

// unplugAgain is the interval at which the request to release a device is repeated. A
// request is lost while no operating system runs. Repeating a pending request does no
// harm: QEMU refuses it.
const unplugAgain = 3 * time.Second

// unplugSoon is the time from a RESUME or RESET to the next request. Many of them cause one request.
const unplugSoon = 20 * time.Millisecond

// errRejected reports that the guest has refused to release the device.
var errRejected = errors.New("the guest has rejected the unplug request")

// unplug requests that the guest releases a device and waits until QEMU has removed it,
// or until ctx ends; the error is then ctx's, or errRejected.
func unplug(ctx context.Context, c *monitor.Conn, id string) error {
	for {
		err := unplugOn(ctx, c, id)
		if err == nil || ctx.Err() != nil || !monitor.Lost(err) && !errors.Is(err, qmp.ErrEventsLost) {
			return err
		}
		// Events were missed: start over, which also finds out whether the device still
		// exists.
		if err := c.Reconnect(ctx); err != nil {
			return err
		}
	}
}

// unplugOn is unplug on one connection.
func unplugOn(ctx context.Context, c *monitor.Conn, id string) error {
	events := c.Client().Subscribe("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", "RESUME", "RESET")
	defer events.Close()
	request := qmp.Command{Execute: "device_del", Arguments: qmp.Object{{Name: "id", Value: id}}}
	again := time.NewTicker(unplugAgain)
	defer again.Stop()
	var soon <-chan time.Time // after an event that may make the request succeed
	rejected := false
	for {
		err := neverRan(ctx, c, id)
		if err == nil {
			_, err = c.Client().Execute(ctx, request)
		}
		switch {
		case err == nil, errors.Is(err, qmp.ErrUnplugPending), errors.Is(err, errNeverRan):
		case errors.Is(err, qmp.ErrDeviceNotFound):
			return nil
		default:
			return err
		}
		// An event after which the request may succeed, or the next tick.
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
			case <-soon:
				soon = nil
				break wait
			case e, open := <-events.Events():
				switch {
				case !open:
					return events.Err()
				case e.Event == "RESUME", e.Event == "RESET":
					if soon == nil {
						soon = time.After(unplugSoon)
					}
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

// errNeverRan reports that a request would be lost for good, see neverRan.
var errNeverRan = errors.New("the VM has not run yet")

// neverRan returns errNeverRan for a PCI device of a VM that was started with -S and has
// not run yet. No guest receives a request, and QEMU (10.0.2 with ACPI hot plug) would
// consider it pending until a reset: it stores the guest's clock for when it may be
// repeated, which is 0 then, and 0 means never. Once the VM runs, a request works.
func neverRan(ctx context.Context, c *monitor.Conn, id string) error {
	if RunState(ctx, c) != "prelaunch" {
		return nil
	}
	name, err := monitor.Get[string](ctx, c, monitor.QOMGet(inventory.Peripheral+id, "type"))
	if err != nil {
		return nil // usually no such device: device_del reports it
	}
	if strings.Contains(name, "-pci") { // SCSI and USB disks need no consent of the guest
		return errNeverRan
	}
	return nil
}

// concerns reports whether an event is about the device itself. QEMU sends two
// DEVICE_DELETED for a virtio-blk-pci: the first, without an id, for a part of the device
// while its node is still in use. A libvirt in between may pass on only the path.
func concerns(e qmp.Event, id string) bool {
	if device, ok := e.Data["device"].(string); ok {
		return device == id
	}
	path, _ := e.Data["path"].(string)
	return path == inventory.Peripheral+id
}

// RunState returns the VM's run state, "" if the query fails.
func RunState(ctx context.Context, q monitor.Querier) string {
	status, err := monitor.Get[struct{ Status string }](ctx, q, qmp.Command{Execute: "query-status"})
	if err != nil {
		return ""
	}
	return status.Status
}

// Remove removes everything of a disk but its device, and of its copy: nodes from the top down, objects,
// descriptor sets, and its files and processes on the host. It tries them all. The error
// is the VM's first and all of the host's, which [LeftOnHost] names. The note of an adopted
// disk stays while something of the disk is in the VM.
func Remove(ctx context.Context, c *monitor.Conn, h *host.Host, disk *inventory.AttachedDisk) error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if disk.Copy != nil {
		keep(Remove(ctx, c, h, disk.Copy))
	}
	nodes, guards := parted(disk.Nodes)
	keep(removeNodes(ctx, c, nodes))
	if first == nil { // a job that still runs keeps its nodes, and needs the guard
		keep(removeNodes(ctx, c, guards))
	}
	for _, id := range disk.Chardevs {
		keep(removeChardev(ctx, c, id))
	}
	for _, id := range disk.Objects {
		keep(DeleteObject(ctx, c, id))
	}
	for _, id := range disk.FDSets {
		keep(removeFDSet(ctx, c, id))
	}
	if first != nil && disk.Adopted {
		return first // only the note names what is left
	}
	return both(first, CleanUpHost(ctx, h, disk.Instance))
}

// parted returns the nodes of a disk without the guards of copies, and the guards.
func parted(nodes []string) (rest, guards []string) {
	for _, name := range nodes {
		if _, role, ours := blockgraph.ParseName(name); ours && role == blockgraph.RoleGuard {
			guards = append(guards, name)
			continue
		}
		rest = append(rest, name)
	}
	return rest, guards
}

// both joins two errors in one line; each may be nil.
func both(a, b error) error {
	if a == nil || b == nil {
		return errors.Join(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}

// removeNodes deletes nodes and returns the first error. The newest come first, so that
// parents usually precede their children; if not (a node was replaced), it tries again.
func removeNodes(ctx context.Context, c *monitor.Conn, nodes []string) error {
	for len(nodes) > 0 {
		var left []string
		var failed error
		for _, name := range nodes {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("node %s: %w", name, err)
			}
			if err := deleteNode(ctx, c, name); err != nil {
				left = append(left, name)
				if failed == nil {
					failed = err
				}
			}
		}
		if len(left) == len(nodes) {
			return failed
		}
		nodes = left
	}
	return nil
}

// Unplug requests that the guest releases a device and waits for at most wait. If the
// guest does not release it, the error is a [*outcome.PendingError]. If the VM cannot be
// reached, the error wraps [monitor.ErrGone].
func Unplug(ctx context.Context, c *monitor.Conn, h *host.Host, target, device string, wait time.Duration) error {
	unplugging, cancel := ending.After(ctx, wait)
	defer cancel()
	begin := time.Now()
	err := unplug(unplugging, c, device)
	log := h.Entry(target).WithField("step", "device_del "+device)
	switch {
	case errors.Is(err, monitor.ErrGone):
		return err
	case err == nil:
		log.WithField("duration", time.Since(begin).String()).Debug("the guest has released the device")
		return nil
	case errors.Is(err, errRejected), unplugging.Err() != nil:
		after, cancel := h.Recovering(ctx)
		defer cancel()
		return &outcome.PendingError{Target: target, Device: device, Rejected: errors.Is(err, errRejected), Status: RunState(after, c), Err: ctx.Err()}
	}
	return fmt.Errorf("disk %s: unplug device %s: %w", target, device, err)
}

// RemoveAll is Remove, and also unplugs the SCSI controllers that were added for a disk
// and have none left: it returns their ids.
func RemoveAll(ctx context.Context, c *monitor.Conn, h *host.Host, disk *inventory.AttachedDisk) ([]string, error) {
	err := Remove(ctx, c, h, disk)
	controllers, failed := RemoveControllers(ctx, c, h)
	return controllers, both(err, failed)
}

// RemoveControllers unplugs luksplug's controllers that have no disk, and returns their ids.
func RemoveControllers(ctx context.Context, c *monitor.Conn, h *host.Host) ([]string, error) {
	state, err := inventory.Read(ctx, c)
	if err != nil {
		return nil, err
	}
	for i, id := range state.IdleControllers {
		if err := ctx.Err(); err != nil {
			return state.IdleControllers[:i], err
		}
		target, _, _ := blockgraph.ParseName(id)
		if err := Unplug(ctx, c, h, target, id, controllerWait); err != nil {
			return state.IdleControllers[:i], err
		}
	}
	return state.IdleControllers, nil
}

// controllerWait bounds the wait for a guest to release a SCSI controller
// without disks, which it has no reason to keep.
const controllerWait = 30 * time.Second
