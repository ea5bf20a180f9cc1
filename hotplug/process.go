package hotplug

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Process is what is known of the process that a VM on this machine runs in: its
// process id, its user and groups, and the labels by which it is confined.
type Process = hostproc.Info

// Credential is the user and the groups of a process.
type Credential = hostproc.Credential

// Labels are what the security modules of the host's kernel decide by.
type Labels = hostproc.Labels

// errNotHere: the VM does not run on this machine.
var errNotHere = errors.New("the VM does not run on this machine")

// process returns the VM's process: what the options say, or the one at the
// other end of the monitor's unix socket. It is found out once.
func (vm *VM) process(ctx context.Context) (*Process, error) {
	if vm.proc != nil {
		return vm.proc, nil
	}
	p, err := vm.findProcess(ctx)
	if err == nil {
		vm.proc = p
	}
	return p, err
}

func (vm *VM) findProcess(ctx context.Context) (*Process, error) {
	if !vm.filesAreLocal() {
		return nil, errNotHere
	}
	if vm.opts.Process != nil {
		return vm.opts.Process(ctx)
	}
	pid, ok := vm.client.PeerPID()
	if !ok {
		return nil, errors.New("the VM's process is not known over this monitor")
	}
	return LookUpProcess(pid)
}

// LookUpProcess reads about a process of this machine in /proc (proc(5)).
func LookUpProcess(pid int) (*Process, error) {
	user, err := hostproc.CredentialOf(pid)
	if err != nil {
		return nil, fmt.Errorf("the VM's process: %w", err)
	}
	return &Process{PID: pid, User: user}, nil
}
