package libvirtconn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/shell"
)

// dialSSH runs the program ssh, so that the user's settings apply: keys, agents, known hosts, jump hosts,
// aliases. It runs remoteScript on the remote host.
func (u *URI) dialSSH(ctx context.Context) (net.Conn, error) {
	args := u.sshArguments()
	program, err := exec.LookPath(args[0])
	if err != nil {
		return nil, fmt.Errorf("+ssh needs the program %s (Debian has it in openssh-client): %w", args[0], err)
	}
	args[0] = program
	conn, theirs, err := hostproc.SocketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // ssh has its own
	c := &sshConn{Conn: conn, said: &tail{}, ended: make(chan struct{})}
	// The terminal's signals also go to ssh, which must outlive them: an interrupted run rolls back over this
	// connection. Ignored signals stay ignored through exec.
	const ignoring = `trap "" INT QUIT HUP; exec "$@"`
	c.cmd = exec.Command("/bin/sh", append([]string{"-c", ignoring, "sh"}, args...)...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirs, c.said
	c.cmd.WaitDelay = sshGrace // for a child of ssh that keeps standard error
	if err = ctx.Err(); err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		_ = conn.Close() // the first error is the one to report
		return nil, err
	}
	go func() {
		c.failed = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// sshGrace is how long ssh may take to end by itself when the connection is closed.
const sshGrace = 2 * time.Second

// sshConn is a connection through a process.
type sshConn struct {
	net.Conn
	cmd    *exec.Cmd
	said   *tail
	ended  chan struct{}
	failed error // once ended
}

// Close closes the connection, and ends ssh if that does not.
func (c *sshConn) Close() error {
	err := c.Conn.Close()
	go func() {
		select {
		case <-c.ended:
		case <-time.After(sshGrace):
			_ = c.cmd.Process.Kill()
		}
	}()
	return err
}

// why returns ssh's messages once it has ended, a moment after its side of the connection.
func (c *sshConn) why() error {
	select {
	case <-c.ended:
	case <-time.After(sshGrace):
		return nil
	}
	lines := strings.FieldsFunc(c.said.String(), func(r rune) bool { return r == '\r' || r == '\n' })
	const enough = 2 // ssh writes much about a host's new key, and the result at the end
	said := strings.Join(lines[max(0, len(lines)-enough):], "; ")
	var exit *exec.ExitError
	const ofSSH = 255 // ssh(1), EXIT STATUS
	switch {
	case errors.As(c.failed, &exit) && exit.ExitCode() == ofSSH:
		return fmt.Errorf("ssh: %s", cmp.Or(said, "it failed without a message"))
	case said != "":
		return fmt.Errorf("at the other end of ssh: %s", said)
	case c.failed != nil:
		return fmt.Errorf("ssh: %w", c.failed)
	}
	return nil
}

// sshArguments returns the arguments of ssh, itself included.
func (u *URI) sshArguments() []string {
	return append(u.sshCommand(), "sh -c "+shell.Quote(u.remoteScript()))
}

// sshCommand returns the command line of ssh up to the name of the host.
func (u *URI) sshCommand() []string {
	args := []string{cmp.Or(u.command, "ssh"), "-T", "-e", "none"}
	for _, option := range []struct{ flag, value string }{{"-p", u.Port}, {"-l", u.User}, {"-i", u.keyFile}} {
		if option.value != "" {
			args = append(args, option.flag, option.value)
		}
	}
	if u.noTTY {
		args = append(args, "-o", "BatchMode=yes")
	}
	if u.noVerify {
		args = append(args, "-o", "StrictHostKeyChecking=no")
	}
	return append(args, "--", u.Host)
}

// Shell returns the command that runs others on the remote host: ssh with the settings of the URI, up to the
// name of the host. It is nil for another transport, which only reaches libvirt.
func (u *URI) Shell() []string {
	if u.Transport != SSH {
		return nil
	}
	return u.sshCommand()
}

// remoteScript returns the script for the shell of the remote host: libvirt's own helper, which knows the
// sockets there and starts a session's daemon, or a netcat. Some netcats need -q to end with their input.
func (u *URI) remoteScript() string {
	native := "exec virt-ssh-helper " + shell.Quote(u.remote())
	switch {
	case u.proxy == "native":
		return native
	case u.proxy == "auto", u.proxy == "" && u.netcat == "" && u.socket == "":
		return "if command -v virt-ssh-helper >/dev/null 2>&1; then " + native + "; fi; " + u.netcatScript()
	}
	return u.netcatScript()
}

func (u *URI) netcatScript() string {
	program := shell.Quote(cmp.Or(u.netcat, "nc"))
	find := "s=" + shell.Quote(u.socket)
	if u.socket == "" {
		dir := "/run/libvirt"
		if u.Session {
			dir = "${XDG_RUNTIME_DIR:-$HOME/.cache}/libvirt"
		}
		names := u.socketNames()
		find = `d="` + dir + `"; s="$d/` + names[len(names)-1] + `"`
		if len(names) > 1 {
			find += `; if test -S "$d/` + names[0] + `"; then s="$d/` + names[0] + `"; fi`
		}
	}
	return find + "; q=; if " + program + ` -q 2>&1 | grep -q "requires an argument"; then q=-q0; fi; exec ` + program + ` $q -U "$s"`
}
