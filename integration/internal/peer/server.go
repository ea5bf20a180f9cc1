package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// Server is a server that listens on a port of 127.0.0.1.
type Server struct {
	Port int
	Dir  string // for its files
	Log  string // its standard output and standard error

	process *process
}

// serverStart bounds the time until a server listens, of which the slowest needs a fraction of a second.
const serverStart = 30 * time.Second

// startServer runs a server for a test, waits until it listens, and kills it when the test ends. command
// makes its command line for a directory with a short path and a port.
func startServer(t testing.TB, name string, command func(dir string, port int) *exec.Cmd) *Server {
	t.Helper()
	dir := shortDir(t, name)
	ctx, cancel := context.WithTimeout(context.Background(), serverStart)
	defer cancel()
	s := &Server{Dir: dir, Log: filepath.Join(dir, name+".log")}
	const attempts = 5 // another process rarely takes the same port
	var err error
	for range attempts {
		if s.Port, err = freePort(); err != nil {
			break
		}
		if err = s.start(ctx, command(dir, s.Port), func() bool { return listeningTCP(s.Port) }); err == nil || !errors.Is(err, errEnded) {
			break
		}
	}
	s.started(t, name, err)
	return s
}

// started ends a test whose server did not start; otherwise the server ends with the test.
func (s *Server) started(t testing.TB, name string, err error) {
	t.Helper()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("start %s: %v (make setup installs it)", name, err)
	}
	if err != nil {
		t.Fatalf("start %s: %v: %s", name, err, tail(s.Log, 2000))
	}
	atEnd(t, s.Stop, s.Log)
}

// start runs a server until it is ready.
func (s *Server) start(ctx context.Context, cmd *exec.Cmd, ready func() bool) error {
	var err error
	if s.process, err = startTied(cmd, s.Log); err != nil {
		return err
	}
	err = waitFor(ctx, s.process, s.Address(), ready)
	if err != nil {
		s.process.kill()
	}
	return err
}

// Address is host:port.
func (s *Server) Address() string { return "127.0.0.1:" + strconv.Itoa(s.Port) }

// HostXML returns the <host> of a disk's <source>.
func (s *Server) HostXML() string { return fmt.Sprintf("<host name='127.0.0.1' port='%d'/>", s.Port) }

// Stop kills the server. It may be called again.
func (s *Server) Stop() { s.process.kill() }

// Suspend stops the server and its children with SIGSTOP: the kernel still accepts connections, and nothing
// answers. Resume continues them.
func (s *Server) Suspend() error { return s.process.signal(syscall.SIGSTOP) }

// Resume continues the server and its children after Suspend.
func (s *Server) Resume() error { return s.process.signal(syscall.SIGCONT) }

// freePort returns a TCP port without a listener, outside of the range from which the kernel may give ports
// to connections at any time (ip_local_port_range in ip(7)).
func freePort() (int, error) {
	const first, last = 20000, 32000
	for {
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return port, l.Close()
	}
}

// ClosedPort returns a <host> at which no server listens.
func ClosedPort(t testing.TB) string {
	t.Helper()
	port, err := freePort()
	must.OK(t, err)
	return (&Server{Port: port}).HostXML()
}

// SilentPort returns the <host> of a server that accepts connections and never answers.
func SilentPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must.OK(t, err)
	t.Cleanup(func() { _ = l.Close() }) // the test ends
	return (&Server{Port: l.Addr().(*net.TCPAddr).Port}).HostXML()
}

// listeningTCP reports whether a process listens on a port, without a connection that the server would count:
// proc(5) lists such sockets in state 0A (TCP_LISTEN).
func listeningTCP(port int) bool {
	suffix := fmt.Sprintf(":%04X", port)
	return inTable("/proc/net/tcp", func(f []string) bool { return len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) })
}

// inTable reports whether such is true of the fields of any line of a kernel table.
func inTable(path string, such func(fields []string) bool) bool {
	table, _ := os.ReadFile(path) // of a process that may have ended
	return slices.ContainsFunc(strings.Split(string(table), "\n"), func(line string) bool { return such(strings.Fields(line)) })
}

// needRoot skips a test that needs a mount namespace, unless root runs it.
func needRoot(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("%s needs root, for a mount namespace", what)
	}
}

// ownRun returns a shell in a new mount namespace with an empty /run: it does not touch the machine's own
// servers, and needs none of the directories that their services create.
func ownRun(script string, args ...string) *exec.Cmd {
	script = "set -e; mount --make-rprivate /; mount -t tmpfs -o mode=755 luksplug /run; " + script
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	return cmd
}
