package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/luksplug/luksplug/internal/must"
)

// SSHServer is an OpenSSH server that accepts the key of an agent.
type SSHServer struct {
	*Server
	User  string // who may log in: the user of the test
	Agent string // socket of an SSH agent that has the key
	Host  string // the server's public key, as a line of known_hosts
}

// StartSSH starts an SSH server for a test, and an agent.
func StartSSH(t testing.TB) *SSHServer {
	t.Helper()
	needRoot(t, "sshd")
	return startSSH(t, func(config string) *exec.Cmd {
		// sshd must be called by its absolute path, and needs its directory in /run.
		return ownRun(`mkdir /run/sshd; exec /usr/sbin/sshd -D -e -f "$1"`, config)
	})
}

// StartSSH starts an SSH server on the host of this libvirt: its clients find libvirt's programs and sockets.
func (l *Libvirt) StartSSH(t testing.TB) *SSHServer {
	t.Helper()
	return startSSH(t, func(config string) *exec.Cmd {
		return l.Inside(context.Background(), "/usr/sbin/sshd", "-D", "-e", "-f", config)
	})
}

func startSSH(t testing.TB, command func(config string) *exec.Cmd) *SSHServer {
	t.Helper()
	server := &SSHServer{User: "root"}
	host, hostKey := newSSHKey(t)
	user, userKey := newSSHKey(t)
	text, err := ssh.MarshalPrivateKey(hostKey, "")
	must.OK(t, err)
	server.Server = startServer(t, "sshd", func(dir string, port int) *exec.Cmd {
		writeFiles(t, dir, map[string][]byte{"host": pem.EncodeToMemory(text), "authorized": ssh.MarshalAuthorizedKey(user), "sshd_config": sshConfig(dir, port)})
		return command(filepath.Join(dir, "sshd_config"))
	})
	server.Host = fmt.Sprintf("[127.0.0.1]:%d %s", server.Port, ssh.MarshalAuthorizedKey(host))
	server.Agent = startAgent(t, server.Dir, userKey)
	return server
}

func sshConfig(dir string, port int) []byte {
	return fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
`, port, filepath.Join(dir, "host"), filepath.Join(dir, "authorized"))
}

// startAgent serves a key at a socket, as ssh-agent does, until the test ends.
func startAgent(t testing.TB, dir string, key ed25519.PrivateKey) (socket string) {
	t.Helper()
	keys := agent.NewKeyring()
	must.OK(t, keys.Add(agent.AddedKey{PrivateKey: key}))
	socket = filepath.Join(dir, "agent")
	l, err := net.Listen("unix", socket)
	must.OK(t, err)
	t.Cleanup(func() { _ = l.Close() }) // the test ends
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer func() { _ = conn.Close() }() // the client has disconnected
				_ = agent.ServeAgent(keys, conn)    // until the client disconnects
			}()
		}
	}()
	return socket
}

// AnotherHost returns a line of known_hosts that has another key for the server.
func (s *SSHServer) AnotherHost(t testing.TB) string {
	t.Helper()
	other, _ := newSSHKey(t)
	return fmt.Sprintf("[127.0.0.1]:%s %s", strconv.Itoa(s.Port), ssh.MarshalAuthorizedKey(other))
}

// SourceXML returns the <source> of a file. inner follows its <host> and <identity>.
func (s *SSHServer) SourceXML(path, inner string) string {
	return fmt.Sprintf("<source protocol='ssh' name='%s'>%s<identity username='%s' agentsock='%s'/>%s</source>",
		escapeXML(path), s.HostXML(), s.User, escapeXML(s.Agent), inner)
}

func newSSHKey(t testing.TB) (ssh.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must.OK(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	must.OK(t, err)
	return signer.PublicKey(), private
}
