package host

import (
	"fmt"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Process describes the process of a VM on this machine.
type Process = hostproc.Info

// Labels are the labels that security modules of the host's kernel use.
type Labels = hostproc.Labels

// LookUpProcess reads about a process of this machine in /proc (proc(5)).
func LookUpProcess(pid int) (*Process, error) {
	user, err := hostproc.CredentialOf(pid)
	if err != nil {
		return nil, fmt.Errorf("the VM's process: %w", err)
	}
	return &Process{PID: pid, User: user}, nil
}

// ProcessIdentity returns the identity of the process with that id, which a later process with the same id does not have.
func ProcessIdentity(pid int) (hostproc.Process, error) {
	id, err := hostproc.ProcessOf(pid)
	if err != nil {
		return id, fmt.Errorf("the VM's process: %w", err)
	}
	return id, nil
}
