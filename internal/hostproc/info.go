package hostproc

import "os"

// Info describes a VM's process on this machine.
type Info struct {
	// PID is its process id, 0 if that is not known.
	PID int
	// User is the user and groups it runs with, which need access to what is
	// handed over by path; nil if not known.
	User *Credential
	// Labels are its labels of security modules.
	Labels Labels
}

// Labels are those by which the security modules of the host's kernel decide. "" is none.
type Labels struct {
	// AppArmor is the name of the process's profile, Image the SELinux label of the files that it may open.
	AppArmor, Image string
}

// SSHAgent returns the environment variable, as NAME=VALUE, that names the SSH agent of the process, or that
// of this process where it has none; nothing if neither has one. i may be nil.
func (i *Info) SSHAgent() []string {
	const name = "SSH_AUTH_SOCK"
	value := os.Getenv(name)
	if i != nil && i.PID != 0 {
		if own, found := Getenv(i.PID, name); found {
			value = own
		}
	}
	if value == "" {
		return nil
	}
	return []string{name + "=" + value}
}
