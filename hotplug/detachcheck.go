package hotplug

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/guestagent"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
)

// Agent sends one command, a JSON object, to the agent of the VM's guest (QEMU's
// qga/qapi-schema.json), and returns the reply, a JSON object. It returns soon after ctx has
// ended. The error wraps [ErrNoAgent] if the VM has no agent that could be asked.
type Agent = guestagent.Agent

// ErrNoAgent reports that a VM has no guest agent that could be asked.
var ErrNoAgent = guestagent.ErrNone

// AgentSocket returns the agent at a unix socket: the chardev of the VM's virtserialport
// org.qemu.guest_agent.0, for which QEMU listens and which has no other client.
func AgentSocket(path string) Agent { return guestagent.Socket(path, 0) }

// checkUnused refuses an operation on a disk whose nodes something else uses. After a detach the device would have
// left the guest, and the nodes would stay; a resize would fail, or change the size below a job that runs.
func (vm *VM) checkUnused(ctx context.Context, disk *AttachedDisk, operation string) error {
	users, err := inventory.ReadNodeUsers(ctx, vm.conn)
	if err != nil {
		return fmt.Errorf("disk %s: %w", disk.Target, err)
	}
	found := users.Of(disk)
	if len(found) == 0 {
		return nil
	}
	return &PreflightError{Target: disk.Target, Cause: ErrDiskInUse,
		Reason: fmt.Sprintf("it is in use in the VM by %s: %s, and %s again", usersText(found), endOf(found), operation)}
}

// mostNamed bounds what a message lists: a QEMU or a guest may name any number.
const mostNamed = 5

// usersText names users.
func usersText(users []inventory.NodeUser) string {
	var names []string
	for _, u := range users {
		names = append(names, u.String())
	}
	return listed(names)
}

// listed joins the first names.
func listed(names []string) string {
	out := strings.Join(names[:min(len(names), mostNamed)], ", ")
	if more := len(names) - mostNamed; more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	return out
}

// endOf returns what ends the uses, by the QMP commands.
func endOf(users []inventory.NodeUser) string {
	commands := map[inventory.UserKind]string{
		inventory.UserJob:    "wait until the job has ended, or end it (job-cancel)",
		inventory.UserExport: "end the export (block-export-del)",
		inventory.UserDevice: "unplug the other device (device_del)",
		inventory.UserNode:   "remove the node on top of the disk (blockdev-del; after block-commit, if the disk writes to it)",
	}
	var out []string
	for _, kind := range []inventory.UserKind{inventory.UserJob, inventory.UserExport, inventory.UserDevice, inventory.UserNode} {
		for _, u := range users {
			if u.Kind == kind {
				out = append(out, commands[kind])
				break
			}
		}
	}
	return strings.Join(out, ", ")
}

// checkUnmounted refuses to detach a disk that the guest has mounted, as far as its agent says
// so.
func (vm *VM) checkUnmounted(ctx context.Context, state *State, disk *AttachedDisk, ask Agent) error {
	if apply.RunState(ctx, vm.conn) != "running" {
		return nil // no agent runs
	}
	asking, cancel := context.WithTimeout(ctx, guestagent.Limit)
	defer cancel()
	mounted, err := vm.mounts(asking, state, disk, ask)
	switch log := vm.host.Entry(disk.Target); {
	case errors.Is(err, ErrNoAgent):
		log.Debugf("it is not known whether the guest has mounted the disk: %v", err)
	case err != nil:
		log.Warnf("it is not known whether the guest has mounted the disk: %v", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("disk %s: %w", disk.Target, err) // the caller has given up
	}
	if len(mounted) == 0 {
		return nil
	}
	return &PreflightError{Target: disk.Target, Cause: ErrMounted,
		Reason: fmt.Sprintf("the guest has mounted it, as its agent reports: %s: unmount it there and detach again", mountsText(mounted))}
}

// mounts asks the guest's agent for the file systems on the disk.
func (vm *VM) mounts(ctx context.Context, state *State, disk *AttachedDisk, ask Agent) ([]guestagent.FileSystem, error) {
	if ask == nil {
		process, err := vm.host.Process(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
		}
		if ask, err = guestagent.Find(ctx, vm.conn, state, process.PID); err != nil {
			return nil, err
		}
	}
	all, err := guestagent.FileSystems(ctx, ask)
	if err != nil {
		return nil, err
	}
	place, err := guestagent.PlaceOf(ctx, vm.conn, disk)
	if err != nil {
		return nil, err
	}
	return guestagent.On(place, all), nil
}

// mountsText names mount points, which a guest has chosen.
func mountsText(mounted []guestagent.FileSystem) string {
	var names []string
	for _, f := range mounted {
		names = append(names, fmt.Sprintf("%s (%s, %s)", shorten(f.MountPoint), shorten(f.Name), shorten(f.Type)))
	}
	return listed(names)
}

// shorten cuts a guest's name to a length that leaves a message readable.
func shorten(name string) string {
	const longest = 100
	if runes := []rune(name); len(runes) > longest {
		return string(runes[:longest]) + "..."
	}
	return name
}
