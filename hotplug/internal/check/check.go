// Package check refuses a disk that must not be attached, before the first change: it
// checks that names are free, that QEMU supports the plan, and that the images exist, may
// be opened, are not in use by others, and match the disk's XML. A missed error costs
// data: a LUKS image that is attached as a raw disk is formatted by the guest, and a
// header that serves two payloads gives both the same key.
//
// The checks are an ordered list. Each examines a [Candidate], which is read-only, and
// returns its findings.
package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/secrets"
)

// Candidate is a disk that may be attached to a running VM or at a VM's start.
type Candidate struct {
	Host *host.Host
	// VM is the running VM; nil for one that is about to start.
	VM *VM
	// State is what exists in the VM.
	State *inventory.State
	Disk  *blockgraph.Disk
	Plan  *blockgraph.Plan
	// Unlock tells how the volume is opened.
	Unlock blockgraph.Unlock
	Spec   spec.Spec
	// MaxStall is the longest time that a running VM's QEMU may take to unlock the volume; 0
	// is [DefaultMaxStall], [NoMaxStall] is no limit.
	MaxStall time.Duration
	// Moving is true if a QEMU has the images open already: the VM's own, or one on another
	// host until it hands them over.
	Moving bool
	// Images opens the disk's images, with the secrets of servers from Store.
	Images *remoteimage.Opener
	Store  secrets.Store
	// Servers is the result of an earlier check of images on servers; nil has them
	// checked.
	Servers *Servers
	// Searches remembers the signatures of payloads of an earlier examination.
	Searches *image.Searches
}

// VM is a running VM that checks may query.
type VM struct {
	Conn *monitor.Conn
	// Properties caches device-list-properties by driver: the query makes QEMU
	// build a device.
	Properties map[string]map[string]bool
}

// Servers is what a storage daemon has found in the disk's images on servers.
type Servers struct {
	// Size and UUID are those of the top volume, if its header is on a server.
	Size int64
	UUID string
	// Stall is that of the volumes whose headers are on servers.
	Stall *unlock.Stall
	// Warnings are for the user.
	Warnings []string
}

// Findings are the results of checks that have not refused the disk.
type Findings struct {
	// Size is the size that the volume must have, in bytes; 0 for any size.
	Size int64
	// Stall is how long QEMU stalls the guest by unlocking volumes; nil if it does not. It
	// does not count headers that cannot be read.
	Stall *unlock.Stall
	// Grants are the files that QEMU needs access to.
	Grants grant.Grants
	// Warnings are for the user.
	Warnings []string
	// Servers is the result for images on servers; nil for a VM on another machine.
	Servers *Servers
}

// AllWarnings returns the warnings of this examination, and those about images on
// servers, which may be of an earlier one.
func (f Findings) AllWarnings() []string {
	if f.Servers == nil {
		return f.Warnings
	}
	return slices.Concat(f.Warnings, f.Servers.Warnings)
}

// Check is one check. The error refuses the disk.
type Check func(ctx context.Context, c *Candidate) (Findings, error)

// Attach returns the checks of a disk for a running VM, in their order.
func Attach() []Check {
	return []Check{names, schema, hostDevices, overlayPlace, images, payloads, permissions}
}

// Early returns those of [Attach] that are worth refusing a disk before its key is derived,
// which the others follow.
func Early() []Check {
	return []Check{names, schema, hostDevices, overlayPlace, images, permissions}
}

// Copy returns those of a new volume that a VM's disk is copied to: [Attach] without a look at the payload, which is empty.
func Copy() []Check { return Early() }

// IdleSource and IdleTarget return those of the volumes of a copy that no VM takes part in: of the old one, and of the new one,
// whose payload is empty.
func IdleSource() []Check { return []Check{images, payloads} }

// IdleTarget is described with [IdleSource].
func IdleTarget() []Check { return []Check{images} }

// Adoption returns the checks of a disk that the VM's QEMU has open already. The state of the
// candidate is that without the disk, and Moving is true: the locks on the images are QEMU's.
func Adoption() []Check { return []Check{images, payloads} }

// Start returns the checks of a disk that a VM is started with.
func Start() []Check { return []Check{images, payloads, permissions} }

// Run runs the checks in order, up to the first that refuses the disk.
func Run(ctx context.Context, c *Candidate, checks []Check) (Findings, error) {
	var all Findings
	for _, check := range checks {
		found, err := check(ctx, c)
		if err != nil {
			return Findings{}, err
		}
		all.Warnings = append(all.Warnings, found.Warnings...)
		if found.Stall != nil {
			all.Stall = found.Stall
		}
		if found.Size != 0 {
			all.Size = found.Size
		}
		if found.Servers != nil {
			all.Servers = found.Servers
		}
		if found.Grants.Target != "" {
			all.Grants = found.Grants
		}
	}
	return all, nil
}

// refuse returns a refusal of the disk.
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

// schema checks that the VM's QEMU supports every command of the plan.
func schema(ctx context.Context, c *Candidate) (Findings, error) {
	return Findings{}, c.VM.Schema(ctx, c.Host, c.Plan)
}

// permissions checks that QEMU may open the images, or can be granted access.
func permissions(ctx context.Context, c *Candidate) (Findings, error) {
	p, err := grant.Check(ctx, c.Host, c.Disk, c.Unlock.Method, c.Spec)
	return Findings{Grants: p}, err
}

// overlayPlace checks that the overlay of a transient disk can be made: its path is on
// this host and free, and its directory writable.
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
	// A leftover of an interrupted run is removed after all checks.
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
