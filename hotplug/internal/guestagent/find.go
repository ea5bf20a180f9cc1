package guestagent

import (
	"context"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// portName is the name of the virtio port that qemu-ga opens by default (qemu-ga(8)).
const portName = "org.qemu.guest_agent.0"

// portsAtOnce is the number of ports in one batch of queries.
const portsAtOnce = 32

// Find returns the agent of a VM of this host whose QEMU, process pid, listens for a client of the agent's channel at a
// unix socket. QEMU names the path of the socket. It is not trusted: the kernel has to say that pid listens there. The
// error wraps [ErrNone] if there is no such channel, if nothing in the guest has opened it, or if another client has
// it. It changes nothing.
func Find(ctx context.Context, q monitor.Querier, state *inventory.State, pid int) (Agent, error) {
	if pid == 0 {
		return nil, fmt.Errorf("%w: the VM's process is not known", ErrNone)
	}
	name, err := findPort(ctx, q, state)
	if err != nil {
		return nil, err
	}
	all, err := monitor.Get[[]chardev](ctx, q, qmp.Command{Execute: "query-chardev"})
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Label == name {
			return c.agent(pid)
		}
	}
	return nil, fmt.Errorf("%w: its port %s has no connection", ErrNone, portName)
}

// chardev is ChardevInfo of QEMU's qapi/char.json.
type chardev struct {
	Label    string `json:"label"`
	Filename string `json:"filename"`
	Open     bool   `json:"frontend-open"`
}

// agent returns the agent at the socket of a chardev.
func (c chardev) agent(pid int) (Agent, error) {
	// QEMU describes a socket as "unix:PATH,server=on", after "disconnected:" if it has no client.
	name, free := strings.CutPrefix(c.Filename, "disconnected:")
	path, unix := strings.CutPrefix(name, "unix:")
	path, _, listens := strings.Cut(path, ",server=on")
	switch {
	case !c.Open:
		return nil, fmt.Errorf("%w: nothing in the guest has opened its port", ErrNone)
	case !unix || !listens || !strings.HasPrefix(path, "/"):
		return nil, fmt.Errorf("%w: QEMU does not listen for a client of its channel at a unix socket", ErrNone)
	case !free:
		return nil, fmt.Errorf("%w: another client uses its channel", ErrNone)
	}
	return Socket(path, pid), nil
}

// findPort returns the chardev of the agent's port.
func findPort(ctx context.Context, q monitor.Querier, state *inventory.State) (string, error) {
	var paths []string
	for id, kind := range state.Devices {
		if kind == "virtserialport" {
			paths = append(paths, inventory.Peripheral+id)
		}
	}
	unnamed, err := inventory.UnnamedDevices(ctx, q, "virtserialport")
	if err != nil {
		return "", err
	}
	paths = append(paths, unnamed...)
	for len(paths) > 0 {
		batch := paths[:min(len(paths), portsAtOnce)]
		paths = paths[len(batch):]
		var commands []qmp.Command
		for _, path := range batch {
			commands = append(commands, monitor.QOMGet(path, "name"), monitor.QOMGet(path, "chardev"))
		}
		values, err := q.Query(ctx, commands...)
		if err != nil {
			return "", err
		}
		for i := range batch {
			var name, chardev string
			if monitor.Decode(values[2*i], &name, commands[2*i]) == nil && name == portName &&
				monitor.Decode(values[2*i+1], &chardev, commands[2*i+1]) == nil {
				return chardev, nil
			}
		}
	}
	return "", fmt.Errorf("%w: it has no port %s", ErrNone, portName)
}
