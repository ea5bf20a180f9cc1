// Package check refuses a disk that must not be attached, before the first change: it checks that
// names are free, that QEMU can do what the plan asks, and that the images are there,
// may be used, are not in use elsewhere, and are what the disk's XML says. A mistake
// here costs data: a LUKS image that is attached as a raw disk is formatted by the
// guest, a header that serves two payloads gives both the same key.
//
// The checks are an ordered list. Each looks at a [Candidate], which is read only,
// and returns what it has found.
package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/secrets"
)

// Candidate is a disk that may be attached to a VM, or a VM started with it.
type Candidate struct {
	Host *host.Host
	// VM is the running VM; nil for one that is about to start.
	VM *VM
	// State is what exists in the VM.
	State *inventory.State
	Disk  *blockgraph.Disk
	Plan  *blockgraph.Plan
	// Unlock says how the volume is opened.
	Unlock blockgraph.Unlock
	Spec   spec.Spec
	// Moving is true where another QEMU, of this VM, has the images open until it hands
	// them over.
	Moving bool
	// Images opens the disk's images, with the secrets of servers from Store.
	Images *remoteimage.Opener
	Store  secrets.Store
	// Servers is what an earlier check has found out of images on servers; nil has them
	// looked at.
	Servers *Servers
}

// VM is a running VM that checks may query.
type VM struct {
	Conn *monitor.Conn
	// Properties caches device-list-properties by driver: the query makes QEMU
	// build a device.
	Properties map[string]map[string]bool
}

// Servers is what a storage daemon has shown of the disk's images on servers.
type Servers struct {
	// Size and UUID are those of the top volume, where its header had to be read there.
	Size int64
	UUID string
	// Warnings are for the user.
	Warnings []string
}

// Findings are what the checks of a disk have found that none of them refuses.
type Findings struct {
	// Size is what the volume must have in bytes, 0 for whatever it has.
	Size int64
	// Permits are what QEMU has to be allowed.
	Permits grant.Permits
	// Warnings are for the user.
	Warnings []string
	// Servers is what was found out of images on servers; nil for a VM on another machine.
	Servers *Servers
}

// AllWarnings are those of this examination, and those of images on servers, which an
// earlier one may have looked at.
func (f Findings) AllWarnings() []string {
	if f.Servers == nil {
		return f.Warnings
	}
	return slices.Concat(f.Warnings, f.Servers.Warnings)
}

// Check is one check. The error refuses the disk.
type Check func(ctx context.Context, c *Candidate) (Findings, error)

// Attach are the checks of a disk that a running VM gets, in their order.
func Attach() []Check {
	return []Check{names, schema, hostDevices, overlayPlace, images, permissions}
}

// Start are the checks of a disk that a VM is started with.
func Start() []Check { return []Check{images, permissions} }

// Run runs the checks in order, up to the first that refuses the disk.
func Run(ctx context.Context, c *Candidate, checks []Check) (Findings, error) {
	var all Findings
	for _, check := range checks {
		found, err := check(ctx, c)
		if err != nil {
			return Findings{}, err
		}
		all.Warnings = append(all.Warnings, found.Warnings...)
		if found.Size != 0 {
			all.Size = found.Size
		}
		if found.Servers != nil {
			all.Servers = found.Servers
		}
		if found.Permits.Target != "" {
			all.Permits = found.Permits
		}
	}
	return all, nil
}

// refuse returns the refusal of the disk.
func (c *Candidate) refuse(cause, err error, format string, args ...any) error {
	return &outcome.PreflightError{Target: c.Disk.Target, Cause: cause, Reason: fmt.Sprintf(format, args...), Err: err}
}

// names checks that the names of the plan are free in the VM.
func names(_ context.Context, c *Candidate) (Findings, error) {
	refuse := func(what, name string) (Findings, error) {
		return Findings{}, c.refuse(outcome.ErrNameTaken, nil, "the name of %s %s is taken in this VM: give the disk another target or alias", what, name)
	}
	for _, n := range c.Plan.Graph.Nodes {
		if c.State.Node(n.Name) != nil {
			return refuse("node", n.Name)
		}
	}
	for _, o := range c.Plan.Graph.Objects {
		if _, taken := c.State.Objects[o.ID]; taken {
			return refuse("object", o.ID)
		}
	}
	for _, d := range c.Plan.Graph.Devices {
		if _, taken := c.State.Devices[d.ID]; taken {
			return refuse("device", d.ID)
		}
	}
	return Findings{}, nil
}

// schema checks that the VM's QEMU takes every command of the plan.
func schema(ctx context.Context, c *Candidate) (Findings, error) {
	return Findings{}, c.VM.Schema(ctx, c.Host, c.Plan)
}

// permissions checks that QEMU may open the images, or may be allowed to.
func permissions(ctx context.Context, c *Candidate) (Findings, error) {
	p, err := grant.Check(ctx, c.Host, c.Disk, c.Unlock.Method, c.Spec)
	return Findings{Permits: p}, err
}

// overlayPlace checks that the overlay of a transient disk can be made: its place
// is here, free, and may be written to.
func overlayPlace(ctx context.Context, c *Candidate) (Findings, error) {
	o := apply.OverlayOf(c.Plan.Graph)
	if o == nil {
		return Findings{}, nil
	}
	refuse := func(err error, format string, args ...any) (Findings, error) {
		return Findings{}, c.refuse(outcome.ErrOverlay, err, format, args...)
	}
	if !c.Host.Local {
		return refuse(nil, "it is transient, and the VM runs on another machine: luksplug makes the overlay itself, so run it there")
	}
	id, err := c.Host.ID(ctx)
	if err != nil {
		return Findings{}, err
	}
	// One of an interrupted run is removed after all checks.
	err = overlay.Check(o.Path, rundir.OverlayMark(id, c.Disk.Target))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return refuse(err, "the file %s is where the overlay of the transient disk would be: remove it if it is not needed", o.Path)
	}
	dir := filepath.Dir(o.Path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return refuse(err, "the overlay of the transient disk cannot be made in %s", dir)
	}
	if _, err := c.Host.Process(ctx); err != nil {
		return refuse(err, "the overlay of the transient disk must belong to QEMU's user")
	}
	return Findings{}, nil
}
