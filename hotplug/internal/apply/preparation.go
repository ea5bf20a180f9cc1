package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// Preparation is what has to be done on the host before the VM gets a disk.
type Preparation struct {
	Disk   *blockgraph.Disk
	Graph  *blockgraph.Graph
	Values *unlock.Values
	// Unlock tells how the volume is opened.
	Unlock blockgraph.Unlock
	// Note is written on the host; nil for none.
	Note *rundir.Note
	// Grants are the files that QEMU needs access to.
	Grants grant.Grants
	// OnDaemon is called when a process of the disk has started; nil for nothing.
	OnDaemon func(ctx context.Context, d Daemon) error
}

// Daemon is a storage daemon that serves a disk to the VM, or a reservation helper.
type Daemon struct {
	daemon.Info
	// VM is the process id of the VM's QEMU, 0 if it is unknown.
	VM int
}

// Changes returns the changes of the host, in the order in which they are made.
func (p Preparation) Changes(h *host.Host) []Change {
	var out []Change
	target := p.Disk.Target
	if p.Note != nil {
		out = append(out, note(h, target, func(ctx context.Context) error { return p.keepNote(ctx, h) }))
	}
	if p.Grants.Needed() {
		out = append(out, grants(h, target, func(ctx context.Context) error {
			return p.Grants.Take(ctx, h, OverlayOf(p.Graph))
		}))
	}
	switch {
	case p.Graph.Daemon != nil:
		out = append(out, process(h, target, func(ctx context.Context) error { return p.startDaemon(ctx, h) }))
	case Managed(p.Disk) != nil:
		out = append(out, process(h, target, func(ctx context.Context) error { return p.startHelper(ctx, h) }))
	case p.Unlock.Dir != "":
		out = append(out, process(h, target, func(ctx context.Context) error {
			user, err := h.User(ctx)
			if err != nil {
				return err
			}
			return onDisk(ctx, h, target, func(d rundir.Disk) error {
				_, err := d.MakeHandOver(user)
				return err
			})
		}))
	}
	return out
}

// keepNote writes the note. If QEMU opens the volume itself it needs nothing of this
// host, and a note that cannot be written is only a warning.
func (p Preparation) keepNote(ctx context.Context, h *host.Host) error {
	dir, err := h.Dir(ctx)
	if err == nil {
		err = dir.WriteNote(*p.Note)
	}
	if err == nil || p.Graph.Daemon != nil || len(p.Graph.Headers) > 0 || p.Disk.Transient {
		return err
	}
	h.Entry(p.Disk.Target).Warnf("the note of the disk cannot be written: %v", err)
	return nil
}

// place returns the user and directory of a process that runs for the disk on the VM's
// host. It ends a process that an interrupted run has left in the directory.
func (p Preparation) place(ctx context.Context, h *host.Host, what string) (*host.Process, string, error) {
	owner, err := h.Process(ctx)
	if err != nil {
		return nil, "", &outcome.PreflightError{Target: p.Disk.Target, Cause: outcome.ErrRemoteVM, Reason: what + " must run on the VM's host", Err: err}
	}
	disk, err := h.Disk(ctx, p.Disk.Target)
	if err != nil {
		return nil, "", err
	}
	if err := disk.StopDaemons(ctx); err != nil {
		return nil, "", err
	}
	return owner, disk.HandOver(), disk.VM.Make()
}

// startDaemon starts the storage daemon of a disk that is unlocked outside of the VM, as
// the user of the VM's QEMU, and has it export the disk.
func (p Preparation) startDaemon(ctx context.Context, h *host.Host) error {
	owner, dir, err := p.place(ctx, h, "a storage daemon")
	if err != nil {
		return err
	}
	d, err := daemon.Start(ctx, daemon.Options{Dir: dir, User: owner.User, Env: owner.SSHAgent(), Owner: h.ProcessID(ctx)})
	if err != nil {
		return p.failed("the storage daemon does not start", err)
	}
	defer fsutil.CloseRead(d)
	if err := p.serve(ctx, h, d); err != nil {
		return err
	}
	return p.tell(ctx, d.Info(), owner)
}

func (p Preparation) failed(reason string, err error) error {
	return &outcome.PreflightError{Target: p.Disk.Target, Cause: outcome.ErrHelperProcess, Reason: reason, Err: err}
}

// tell calls OnDaemon.
func (p Preparation) tell(ctx context.Context, info daemon.Info, owner *host.Process) error {
	if p.OnDaemon == nil {
		return nil
	}
	return p.OnDaemon(ctx, Daemon{Info: info, VM: owner.PID})
}

// serve opens the disk in the daemon and exports it.
func (p Preparation) serve(ctx context.Context, h *host.Host, d *daemon.Daemon) error {
	target := StorageDaemon{d}
	err := Steps(ctx, p.Graph.Daemon.Plan().Steps, func(ctx context.Context, s blockgraph.Step) error {
		return withOverlay(ctx, h, target, s, p.Values, func() error { return Send(ctx, target, s, p.Values) })
	})
	if err := daemonError(p.Disk.Target, p.Graph.Daemon, err); err != nil {
		return err
	}
	err = d.Export(ctx, daemon.Export{Node: p.Graph.Daemon.Top().Name, Name: blockgraph.Export(p.Disk.Target), Writable: !p.Disk.ReadOnly})
	if err != nil {
		return p.failed("the storage daemon cannot export it", err)
	}
	return nil
}

// OpenInDaemon opens the images of a graph in a storage daemon. The error is an [*outcome.SecretError] for a wrong
// passphrase, and an [*outcome.PreflightError] with [outcome.ErrHelperProcess] for another refusal of the daemon.
func OpenInDaemon(ctx context.Context, d *daemon.Daemon, graph *blockgraph.Graph, values *unlock.Values) error {
	err := Steps(ctx, graph.Plan().Steps, func(ctx context.Context, s blockgraph.Step) error {
		return Send(ctx, StorageDaemon{d}, s, values)
	})
	return daemonError(blockgraph.TargetOf(graph.Target), graph, err)
}

// daemonError returns the error of a disk whose graph a storage daemon does not open, by that of [Steps].
func daemonError(target string, graph *blockgraph.Graph, err error) error {
	var step *StepError
	switch {
	case !errors.As(err, &step):
		return err
	case errors.Is(err, qmp.ErrWrongPassphrase):
		return &outcome.SecretError{Target: target, Ref: passphraseOf(graph, step.Step.Subject), Err: step.Err}
	}
	return &outcome.PreflightError{Target: target, Cause: outcome.ErrHelperProcess, Err: step.Err,
		Reason: fmt.Sprintf("the storage daemon cannot open it (%s)%s", step.Command(), outcome.Because(step.Step.Do, step.Err))}
}

// passphraseOf returns the reference of the passphrase that opens a node.
func passphraseOf(graph *blockgraph.Graph, node string) secrets.Reference {
	for _, n := range graph.Nodes {
		if n.Name != node || len(n.Secrets) == 0 {
			continue
		}
		last := n.Secrets[len(n.Secrets)-1] // a server's secrets come first
		for _, o := range graph.Objects {
			if o.ID == last {
				return o.Ref
			}
		}
	}
	return secrets.Reference{}
}

// Managed returns the reservations of an image that luksplug has to manage, nil for none:
// only a LUN can have some, and it has one layer.
func Managed(disk *blockgraph.Disk) *blockgraph.Reservations {
	if r := disk.Image.Source.Reservations; r != nil && r.Managed {
		return r
	}
	return nil
}

// WithHelper returns the disk with the socket of its helper, which need not run yet.
// libvirt has one helper for all disks of a VM; with one for each disk, users need not be
// counted.
func WithHelper(ctx context.Context, h *host.Host, disk *blockgraph.Disk) (*blockgraph.Disk, error) {
	if Managed(disk) == nil {
		return disk, nil
	}
	if !h.Local {
		return nil, &outcome.PreflightError{Target: disk.Target, Cause: outcome.ErrReservations, Reason: "managed reservations need a qemu-pr-helper on the VM's host, which is another machine: start one there, and name its socket with managed='no'"}
	}
	own, err := h.Disk(ctx, disk.Target)
	if err != nil {
		return nil, err
	}
	out := *disk
	out.Image.Source.Reservations = &blockgraph.Reservations{Managed: true, Socket: daemon.HelperSocket(own.HandOver())}
	return &out, nil
}

// startHelper starts the helper of a disk's reservations, to which QEMU's user may
// connect.
func (p Preparation) startHelper(ctx context.Context, h *host.Host) error {
	owner, dir, err := p.place(ctx, h, "a reservation helper")
	if err != nil {
		return err
	}
	info, err := daemon.StartHelper(ctx, daemon.HelperOptions{Dir: dir, User: owner.User, Owner: h.ProcessID(ctx)})
	if err != nil {
		return p.failed("the reservation helper does not start", err)
	}
	return p.tell(ctx, info, owner)
}
