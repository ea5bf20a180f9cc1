// Package samedisk reports whether the wanted disk is already attached, so that a second
// attach of the same disk does nothing.
package samedisk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/qmp"
)

// Comparison is a wanted disk, and the VM's disk with its target.
type Comparison struct {
	VM    *check.VM
	Host  *host.Host
	State *inventory.State
	// Disk is the wanted disk, Attached the VM's.
	Disk     *blockgraph.Disk
	Attached *inventory.AttachedDisk
	// Others returns the disks that the VM's manager has given it; nil for a VM without one.
	Others func(ctx context.Context) ([]blockgraph.OtherDisk, error)
}

// Graph returns the graph that the wanted disk has if it is the attached one.
func (c *Comparison) Graph(ctx context.Context) (*blockgraph.Graph, error) {
	unlock, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	return c.graph(ctx, unlock)
}

// unlock returns how the attached disk was opened, which need not be how it would be opened
// now.
func (c *Comparison) unlock(ctx context.Context) (blockgraph.Unlock, error) {
	out := blockgraph.Unlock{Method: c.Attached.Unlock}
	if out.Method == blockgraph.MethodStorageDaemon {
		own, err := c.Host.Disk(ctx, c.Attached.Instance)
		if err != nil {
			return out, err
		}
		out.Dir = own.HandOver()
	}
	return out, nil
}

func (c *Comparison) graph(ctx context.Context, unlock blockgraph.Unlock) (*blockgraph.Graph, error) {
	var machine blockgraph.Machine
	var err error
	if t := c.Disk.IOTune; t != nil && !t.Any() && c.Others != nil { // the disk then has the limits of its group
		if machine.Disks, err = c.Others(ctx); err != nil {
			return nil, fmt.Errorf("query which disks the VM has: %w", err)
		}
	}
	return blockgraph.Build(c.Disk, machine, unlock)
}

// Difference returns how the attached disk differs from the wanted one, "" if it is the
// same disk. The address of the device is not compared: the attached disk keeps its own.
func (c *Comparison) Difference(ctx context.Context) (string, error) {
	state, h := c.State.Named(c.Attached), c.Attached
	if h.Adopted {
		h = state.Disk(c.Disk.Target)
	}
	unlock, err := c.unlock(ctx)
	if err != nil {
		return "", err
	}
	graph, err := c.graph(ctx, unlock)
	if err != nil {
		return "", err
	}
	device := graph.Device()
	if !c.Attached.Adopted && h.Device != device.ID {
		return fmt.Sprintf("its device is %s, not %s", h.Device, device.ID), nil
	}
	if driver := device.Options.Text("driver"); h.Driver != driver {
		return fmt.Sprintf("its device is a %s, not a %s", h.Driver, driver), nil
	}
	if d := differsInNodes(graph, state, h); d != "" {
		return d, nil
	}
	for _, dev := range graph.Chardevs {
		// "disconnected:unix:PATH", or without the first word.
		if _, path, _ := strings.Cut(state.Chardevs[dev.ID], "unix:"); path != dev.Path {
			return fmt.Sprintf("its server is %s, not %s", path, dev.Path), nil
		}
	}
	if d := c.differsInImages(ctx); d != "" {
		return d, nil
	}
	if d, err := c.differsInServers(ctx, graph, unlock); d != "" || err != nil {
		return d, err
	}
	if d := differsInLimits(graph, state.Throttling(h)); d != "" {
		return d, nil
	}
	return c.differsInDevice(ctx, device)
}

func differsInNodes(graph *blockgraph.Graph, state *inventory.State, h *inventory.AttachedDisk) string {
	for _, want := range graph.Nodes {
		node := state.Node(want.Name)
		if node == nil {
			return fmt.Sprintf("it has no node %s", want.Name)
		}
		if driver := want.Options.Text("driver"); node.Driver != driver {
			return fmt.Sprintf("its node %s is a %s, not a %s", want.Name, node.Driver, driver)
		}
		file := want.Options.Text("filename")
		if role, _ := want.Role.Base(); len(graph.Headers) > 0 && role == blockgraph.RoleHeaderStorage {
			file = "" // an ephemeral header, which has been removed since
		}
		if want.Role == blockgraph.RoleOverlayStorage {
			file = "" // has been removed, too, and was named after the VM
		}
		if file != "" && node.File != file {
			return fmt.Sprintf("its node %s is of %s, not of %s", want.Name, node.File, file)
		}
		if cache, ok := want.Options.Get("cache").(blockgraph.Object); ok {
			if cache.Get("direct") != node.Cache.Direct || cache.Get("no-flush") != node.Cache.NoFlush {
				return fmt.Sprintf("its node %s has another cache mode", want.Name)
			}
		}
	}
	if len(h.Nodes) != len(graph.Nodes) {
		return fmt.Sprintf("it has %d nodes, not %d", len(h.Nodes), len(graph.Nodes))
	}
	top := graph.Top()
	if ro, ok := top.Options.Get("read-only").(bool); ok && ro != state.Node(top.Name).ReadOnly {
		return fmt.Sprintf("read-only is %t", !ro)
	}
	return ""
}

// differsInServers compares the options and credentials with which the images were
// opened, in the storage daemon if that has opened them.
func (c *Comparison) differsInServers(ctx context.Context, graph *blockgraph.Graph, unlock blockgraph.Unlock) (string, error) {
	if graph.Daemon == nil {
		if d := differsInOptions(graph, c.State.Named(c.Attached)); d != "" {
			return d, nil
		}
		return differsInObjects(ctx, c.VM.Conn, graph)
	}
	d, err := daemon.Open(ctx, unlock.Dir)
	if errors.Is(err, daemon.ErrNotRunning) {
		return "it has lost its storage daemon", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = d.Close() }() // only its resources are released
	target := apply.StorageDaemon{Daemon: d}
	theirs, err := inventory.Nodes(ctx, target)
	if err != nil {
		return "", err
	}
	for _, n := range graph.Daemon.Nodes {
		if theirs.Node(n.Name) == nil {
			return fmt.Sprintf("its storage daemon has no node %s", n.Name), nil
		}
	}
	if overlay := blockgraph.Name(graph.Target, blockgraph.RoleOverlayStorage); graph.Daemon.Overlay == nil && theirs.Node(overlay) != nil {
		return "what is written to it goes to an overlay, which is lost with it", nil
	}
	if d := differsInOptions(graph.Daemon, theirs); d != "" {
		return d, nil
	}
	return differsInObjects(ctx, target, graph.Daemon)
}

// differsInObjects compares the objects that nodes use permanently, such as a TLS
// client's credentials.
func differsInObjects(ctx context.Context, q monitor.Querier, graph *blockgraph.Graph) (string, error) {
	for _, o := range graph.Objects {
		if _, secret := o.Secret(); secret {
			continue
		}
		var names []string
		var commands []qmp.Command
		for _, m := range o.Options {
			switch m.Value.(type) {
			case string, bool:
				if m.Name != "qom-type" && m.Name != "id" {
					names, commands = append(names, m.Name), append(commands, monitor.QOMGet("/objects/"+o.ID, m.Name))
				}
			}
		}
		values, err := q.Query(ctx, commands...)
		var refused *qmp.Error
		if errors.As(err, &refused) {
			return fmt.Sprintf("its object %s is another one (%s)", o.ID, refused.Description), nil
		}
		if err != nil {
			return "", fmt.Errorf("query object %s: %w", o.ID, err)
		}
		for i, name := range names {
			want, err := json.Marshal(o.Options.Get(name))
			if err != nil {
				return "", err
			}
			if string(values[i]) != string(want) {
				return fmt.Sprintf("%s of its object %s is %s, not %s", name, o.ID, values[i], want), nil
			}
		}
	}
	return "", nil
}

// sameSource reports whether a name in a note is that of a source.
func sameSource(noted string, s blockgraph.Source) bool {
	if s.Local() {
		return image.SameFile(noted, s.Path)
	}
	return noted == s.String()
}

// differsInImages compares the images of a volume that was unlocked outside of QEMU,
// which does not know them.
func (c *Comparison) differsInImages(ctx context.Context) string {
	disk, h := c.Disk, c.Attached
	if original := unlock.HeaderOf(ctx, c.Host, disk); original != nil && h.UUID != "" && h.UUID != original.UUID {
		return fmt.Sprintf("it is the LUKS volume %s, not %s", h.UUID, original.UUID)
	}
	if h.Unlock == blockgraph.MethodStorageDaemon && h.Payload != "" && !sameSource(h.Payload, disk.Image.Source) {
		return fmt.Sprintf("its payload is %s, not %s", h.Payload, disk.Image.Source)
	}
	if header := disk.Header(); header != nil && h.Header != "" && h.Unlock != blockgraph.MethodQEMU && !sameSource(h.Header, header.Source) {
		return fmt.Sprintf("its header is %s, not %s", h.Header, header.Source)
	}
	return ""
}

// differsInDevice compares the properties by which a guest or an operator identifies the
// disk.
func (c *Comparison) differsInDevice(ctx context.Context, device blockgraph.Device) (string, error) {
	known, err := c.VM.DeviceProperties(ctx, device.Options.Text("driver"))
	if err != nil {
		return "", fmt.Errorf("query device %s: %w", c.Attached.Device, err)
	}
	var names []string
	if known["serial"] { // compared also if it is not given; a LUN has its own
		names = append(names, "serial")
	}
	for _, name := range []string{"wwn", "bootindex", "werror", "rerror"} {
		if device.Options.Get(name) != nil {
			names = append(names, name)
		}
	}
	var commands []qmp.Command
	for _, name := range names {
		commands = append(commands, monitor.QOMGet(inventory.Peripheral+c.Attached.Device, name))
	}
	values, err := c.VM.Conn.Query(ctx, commands...)
	if err != nil {
		return "", fmt.Errorf("query device %s: %w", c.Attached.Device, err)
	}
	for i, name := range names {
		want := device.Options.Get(name)
		if want == nil {
			want = ""
		}
		text, err := json.Marshal(want)
		if err != nil {
			return "", err
		}
		if got := string(values[i]); got != string(text) && (want != "" || got != "null") {
			return fmt.Sprintf("its %s is %s, not %s", name, got, text), nil
		}
	}
	return "", nil
}
