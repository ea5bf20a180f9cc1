package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// sshProgram returns an ssh that reads known hosts from a file of the test.
func sshProgram(t *testing.T, known string) string {
	t.Helper()
	hosts := writeFile(t, "known_hosts", known)
	return script(t, "ssh", "exec ssh -F none -o UserKnownHostsFile="+hosts+` -o GlobalKnownHostsFile=none "$@"`)
}

// at runs the program on a domain of the libvirt at a URI.
func at(ctx context.Context, t *testing.T, uri string, env []string, domain string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(ctx, luksplug, append([]string{"--connect", uri, "--domain", domain}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	return run(ctx, t, cmd)
}

// TestTransports uses a domain over each transport to another host. The host's files are not checked here:
// QEMU unlocks the volume, and detects what would destroy data.
func TestTransports(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.ListeningLibvirtd(t)
	d, before := bootedDomain(ctx, t, l.Libvirt)
	ssh := l.StartSSH(t)
	agent := []string{"SSH_AUTH_SOCK=" + ssh.Agent}
	program := sshProgram(t, ssh.Host)
	pki := l.Authority.LibvirtClient(t, l.Authority)
	netcat := script(t, "netcat", `[ "$1" = -U ] || exit 1; exec socat - "UNIX-CONNECT:$2"`)
	over := fmt.Sprintf("qemu+ssh://%s@%s/system?no_tty=1&command=%s", ssh.User, ssh.Address(), program)

	for name, c := range map[string]struct {
		uri string
		env []string
	}{
		"tcp":        {uri: fmt.Sprintf("qemu+tcp://127.0.0.1:%d/system", l.TCP)},
		"tls":        {uri: fmt.Sprintf("qemu://127.0.0.1:%d/system?pkipath=%s", l.TLS, pki)},
		"ssh":        {uri: over, env: agent},
		"ssh netcat": {uri: over + "&proxy=netcat&netcat=" + netcat + "&socket=" + l.Socket, env: agent},
	} {
		t.Run(name, func(t *testing.T) {
			tool := func(args ...string) result { return at(ctx, t, c.uri, c.env, d.Name, args...) }
			v := peer.NewVolume(t, peer.DetachedRaw)
			args := attachArgs(t, v, serialXML(t, v.DiskXML("vdb", "virtio"), "from-afar"))
			tool(append([]string{"-v"}, args...)...).want(t, 0).wantStderr(t, "because the VM runs on another machine", "is not checked here", "secrets go to QEMU in base64",
				"is not signed, since this run cannot use the key of the domain's host", "luksplug --domain VM repair --adopt")
			if text := metadata(ctx, l.Libvirt, d.Name, "--live"); !strings.Contains(text, "vdb") || strings.Contains(text, "mac=") {
				t.Errorf("the record is signed with a key of this host: %s", text)
			}
			tool("repair", "--adopt", "--yes").want(t, 5).wantStderr(t, "on its own host")
			dev := guestDisk(ctx, t, d, "from-afar")
			if err := d.Guest().WritePattern(ctx, dev, 1, 1, []byte("from afar ")); err != nil {
				t.Error(err)
			}
			tool(args...).want(t, 0).wantStdout(t, "vdb already attached")
			tool("list").want(t, 0).wantStdout(t, v.Payload)
			tool("--timeout", "1m", "detach", "vdb").want(t, 0)
			wantSame(ctx, t, d, before)

			luks := peer.NewVolume(t, peer.EmbeddedLUKS)
			refused := tool("attach", writeFile(t, "plain.xml", plainXML(luks.Payload))).want(t, 6)
			refused.wantStderr(t, "add <encryption format='luks'>")
			wantSame(ctx, t, d, before)
		})
	}
	t.Run("refused", func(t *testing.T) { transportsRefused(ctx, t, l, ssh, d.Name) })
	wantSame(ctx, t, d, before)
}

// plainXML returns the XML of a disk without encryption.
func plainXML(path string) string {
	return "<disk type='file'><driver name='qemu' type='raw'/><source file='" + path + "'/><target dev='vdb' bus='virtio'/></disk>"
}

// transportsRefused: a connection that is insecure or fails is refused with one line that says why.
func transportsRefused(ctx context.Context, t *testing.T, l *peer.ListeningLibvirt, ssh *peer.SSHServer, domain string) {
	other := peer.NewAuthority(t)
	agent := []string{"SSH_AUTH_SOCK=" + ssh.Agent}
	over := fmt.Sprintf("qemu+ssh://%s@%s/system?no_tty=1&command=", ssh.User, ssh.Address())
	tls := func(host, pki string) string {
		return fmt.Sprintf("qemu+tls://%s:%d/system?pkipath=%s", host, l.TLS, pki)
	}
	for name, c := range map[string]struct {
		uri  string
		env  []string
		says string
	}{
		"a server of another authority":  {tls("127.0.0.1", other.LibvirtClient(t, l.Authority)), nil, "authority of cacert.pem has not signed"},
		"a server of another name":       {tls("localhost", l.Authority.LibvirtClient(t, l.Authority)), nil, "use the name that is in the certificate"},
		"a client of another authority":  {tls("127.0.0.1", l.Authority.LibvirtClient(t, other)), nil, "it refuses this client"},
		"a client without a certificate": {tls("127.0.0.1", l.Authority.LibvirtClient(t, nil)), nil, "without a certificate"},
		"TLS where there is none":        {fmt.Sprintf("qemu+tls://127.0.0.1:%d/system?pkipath=%s", l.TCP, l.Authority.LibvirtClient(t, l.Authority)), nil, "and for TLS?"},
		"a host key that is another's":   {over + sshProgram(t, ssh.AnotherHost(t)), agent, "Host key verification failed"},
		"an unknown host key":            {over + sshProgram(t, ""), agent, "Host key verification failed"},
		"a user whom the host knows not": {over + sshProgram(t, ssh.Host), []string{"SSH_AUTH_SOCK=/nonexistent"}, "Permission denied"},
		"a host without such a socket":   {over + sshProgram(t, ssh.Host) + "&proxy=netcat&netcat=socat-is-no-netcat&socket=/nonexistent", agent, "other end of ssh"},
		"a session that is not there":    {"qemu:///session", []string{"XDG_RUNTIME_DIR=" + t.TempDir()}, "virsh --connect qemu:///session"},
	} {
		got := at(ctx, t, c.uri, c.env, domain, "--timeout", "20s", "list")
		if got.code != 1 || !strings.Contains(got.stderr, c.says) || strings.Count(strings.TrimSpace(got.stderr), "\n") != 0 {
			t.Errorf("%s: exit code %d: %s", name, got.code, got.stderr)
		}
	}
}

// TestSession attaches a disk to a VM of an unprivileged user, as that user.
func TestSession(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := peer.Libvirtd(t).StartSession(t)
	d := must.Get(s.StartDomain(ctx, peer.DomainOptions{SCSI: true}))(t)
	before := stateOf(ctx, t, d)
	// Only root can read the test's own directories.
	dir := filepath.Join(s.Dir, "home")
	v := must.Get(peer.CreateVolume(ctx, dir, peer.DetachedRaw))(t)
	disk := filepath.Join(dir, "disk.xml")
	binary := must.Get(os.ReadFile(luksplug))(t)
	program := filepath.Join(dir, "luksplug")
	must.OK(t, os.WriteFile(disk, []byte(v.DiskXML("sdb", "scsi")), 0o600))
	must.OK(t, os.WriteFile(program, binary, 0o700))
	for _, path := range []string{v.Payload, v.Header, v.PassphraseFile, disk, program} {
		must.OK(t, os.Chown(path, s.UID, s.UID))
	}
	tool := func(args ...string) result {
		return run(ctx, t, s.Command(ctx, program, append([]string{"--connect", "qemu:///session", "--domain", d.Name}, args...)...))
	}
	got := tool("-v", "--passphrase-file", v.PassphraseFile, "attach", disk).want(t, 0)
	for _, says := range []string{"by luksplug in ", "encrypted under its master key"} {
		if !strings.Contains(got.stdout+got.stderr, says) {
			t.Errorf("attach does not say %q: %s%s", says, got.stdout, got.stderr)
		}
	}
	key := filepath.Join(dir, ".config", "luksplug", "record.key")
	if info := must.Get(os.Stat(key))(t); info.Mode() != 0o600 || ownerOf(t, key) != fmt.Sprintf("%d:%d", s.UID, s.UID) {
		t.Errorf("the user's key has mode %v and belongs to %s", info.Mode(), ownerOf(t, key))
	}
	tool("repair", "--adopt", "--yes").want(t, 0).wantStdout(t, "live record: signed", "nothing to sign")
	tool("list").want(t, 0).wantStdout(t, "sdb")
	tool("--timeout", "1m", "detach", "sdb").want(t, 0)
	wantSame(ctx, t, d, before)
}
