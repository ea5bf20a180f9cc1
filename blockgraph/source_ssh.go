package blockgraph

// SSH is a file on an SSH server.
//
//	source@name                        -> path
//	<host>                             -> server (port 22 unless given)
//	auth@username or identity@username -> user
//
// QEMU's driver authenticates through the SSH agent and the keys of the user
// that QEMU runs as, and checks the host by that user's known_hosts. The password
// of <auth>, and what <identity> and <knownHosts> say of files, is for nbdkit,
// which libvirt puts in between where the host has it; see [Disk.Warnings]. See
// QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsSsh.
type SSH struct {
	Path string
	Host Host
	// User is the login, "" for the user that QEMU runs as.
	User string
	// Ignored are the elements that QEMU's driver has no use for.
	Ignored []string
}

const sshPort = 22

// Protocol implements [Network].
func (*SSH) Protocol() string { return "ssh" }

func (s *SSH) String() string { return url("ssh", s.Host, sshPort, s.Path) }

func (s *SSH) validate(element string) error {
	if s.Path == "" {
		return invalid(element+"@name", "missing name for disk source")
	}
	return onlyTCP(element, "ssh", []Host{s.Host})
}

func (s *SSH) node(*builder, *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", "ssh"}, {"path", s.Path}, {"server", s.Host.inet(sshPort)}}}
	o.AddText("user", s.User)
	return o
}
