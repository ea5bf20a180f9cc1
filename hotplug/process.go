package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/luksplug/luksplug/hotplug/daemon"
)

// Process is what is known of the process that a VM on this machine runs in.
type Process struct {
	// PID is its process id, 0 when that is not known.
	PID int
	// User is as whom it runs: who must be able to open what is handed over by
	// path.
	User *daemon.Credential
	// Labels are how it is confined.
	Labels Labels
}

// Labels are what security modules of the host's kernel go by.
type Labels struct {
	// AppArmor is the name of the process's profile, Image the SELinux label of the
	// files that it may open; "" for none.
	AppArmor, Image string
}

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
	user, err := daemon.CredentialOf(pid)
	if err != nil {
		return nil, fmt.Errorf("the VM's process: %w", err)
	}
	return &Process{PID: pid, User: user}, nil
}

// sshAgent is the variable of the environment that names the SSH agent of the VM's
// process, or ours where it has none; nothing where there is none at all. p may be
// nil.
func (p *Process) sshAgent() []string {
	const prefix = "SSH_AUTH_SOCK="
	value := os.Getenv(strings.TrimSuffix(prefix, "="))
	if p != nil && p.PID != 0 {
		// Not to be read for another user's process, whose images we hardly get at either.
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		for v := range strings.SplitSeq(string(environment), "\x00") {
			if own, found := strings.CutPrefix(v, prefix); found {
				value = own
			}
		}
	}
	if value == "" {
		return nil
	}
	return []string{prefix + value}
}
