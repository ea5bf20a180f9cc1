package hotplug

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/qmp"
)

// startDaemon starts the storage daemon of a disk that is unlocked outside of
// the VM, as the user that the VM's QEMU runs as, and has it export the disk. The
// VM is not told of it yet. On failure the daemon is gone.
func (a *attach) startDaemon(ctx context.Context, graph *blockgraph.Graph, values *Values) error {
	owner, dir, err := a.placeBeside(ctx, "a storage daemon")
	if err != nil {
		return err
	}
	d, err := daemon.Start(ctx, daemon.Options{Dir: dir, User: owner.User, Env: owner.SSHAgent()})
	if err != nil {
		return &PreflightError{Target: a.disk.Target, Reason: "the storage daemon does not start", Err: err}
	}
	defer closeRead(d)
	err = a.serve(ctx, d, graph, values)
	if err == nil && a.vm.opts.OnDaemon != nil {
		err = a.vm.opts.OnDaemon(ctx, Daemon{Info: d.Info(), VM: owner.PID})
	}
	if err != nil {
		after, cancel := a.vm.recovery(ctx)
		defer cancel()
		return errors.Join(err, d.Stop(after))
	}
	return nil
}

// placeBeside returns as whom a process of the disk's is to run beside the VM, and its
// folder, where none of an interrupted run is left.
func (a *attach) placeBeside(ctx context.Context, what string) (owner *Process, dir string, err error) {
	if owner, err = a.vm.process(ctx); err != nil {
		return nil, "", &PreflightError{Target: a.disk.Target, Reason: what + " must run beside the VM", Err: err}
	}
	if dir, err = a.vm.handOverPath(ctx, a.disk.Target); err != nil {
		return nil, "", err
	}
	if err := a.vm.makeRunDir(ctx); err != nil {
		return nil, "", err
	}
	return owner, dir, daemon.Stop(ctx, dir)
}

// Daemon is a storage daemon that serves a disk to the VM, or a reservation
// helper.
type Daemon struct {
	daemon.Info
	// VM is the process id of the VM's QEMU, 0 when that is not known.
	VM int
}

// serve opens the disk in the daemon and exports it.
func (a *attach) serve(ctx context.Context, d *daemon.Daemon, graph *blockgraph.Graph, values *Values) error {
	for _, s := range graph.Daemon.Plan().Steps {
		cmd, err := values.command(s.Do)
		if err != nil {
			return err
		}
		err = a.vm.withOverlay(ctx, s, values, asking(d), func() error {
			_, err := d.Client().Execute(ctx, cmd)
			return err
		})
		if errors.Is(err, qmp.ErrWrongPassphrase) {
			return &SecretError{Target: a.disk.Target, Ref: passphraseOf(graph.Daemon, s.Subject), Err: err}
		}
		if err != nil {
			return &PreflightError{Target: a.disk.Target, Reason: fmt.Sprintf("the storage daemon cannot open it (%s %s)%s", s.Do.Execute, s.Subject, because(s.Do, err)), Err: err}
		}
	}
	err := d.Export(ctx, daemon.Export{Node: graph.Daemon.Top().Name, Name: blockgraph.Export(a.disk.Target), Writable: !a.disk.ReadOnly})
	if err != nil {
		return &PreflightError{Target: a.disk.Target, Reason: "the storage daemon cannot export it", Err: err}
	}
	return nil
}

// stopDaemon ends the storage daemons and the helper of a disk, if there are any.
func (vm *VM) stopDaemon(ctx context.Context, target string) error {
	dir, err := vm.handOverPath(ctx, target)
	if err != nil {
		return err
	}
	if err := removeHandedOver(dir); err != nil { // not a daemon's: it would not touch its folder
		return err
	}
	if err := daemon.Stop(ctx, dir); err != nil {
		return fmt.Errorf("end the daemon of disk %s: %w", target, err)
	}
	return stopReader(ctx, dir+readSuffix)
}
