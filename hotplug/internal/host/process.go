package host

import (
	"fmt"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Process is what is known of the process that a VM on this machine runs in.
type Process = hostproc.Info

// Labels are what the security modules of the host's kernel decide by.
type Labels = hostproc.Labels

// LookUpProcess reads about a process of this machine in /proc (proc(5)).
func LookUpProcess(pid int) (*Process, error) {
	user, err := hostproc.CredentialOf(pid)
	if err != nil {
		return nil, fmt.Errorf("the VM's process: %w", err)
	}
	return &Process{PID: pid, User: user}, nil
}

// ProcessIdentity returns what tells the process with that id from a later one.
func ProcessIdentity(pid int) (hostproc.Process, error) {
	id, err := hostproc.ProcessOf(pid)
	if err != nil {
		return id, fmt.Errorf("the VM's process: %w", err)
	}
	return id, nil
}
