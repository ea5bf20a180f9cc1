package blockgraph

// SSH is a file on an SSH server.
//
//	source@name                        -> path
//	<host>                             -> server (port 22 unless given)
//	auth@username or identity@username -> user
//
// QEMU's driver uses the SSH agent, keys and known_hosts of the user that QEMU runs as. The
// password of <auth> and the files of <identity> and <knownHosts> are for nbdkit, which
// libvirt uses where the host has it; see [Disk.Warnings]. See QEMU's
// docs/interop/qemu-qmp-ref, BlockdevOptionsSsh.
type SSH struct {
	Path    string
	Host    Host
	User    string   // the login, "" for the user that QEMU runs as
	Ignored []string // the elements that QEMU's driver does not use
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
