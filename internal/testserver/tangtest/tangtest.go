// Package tangtest starts a tang server on the loopback interface, for tests of
// secrets that clevis has bound to a server.
package tangtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// Server is a tang server.
type Server struct {
	URL string

	cmd  *exec.Cmd
	once sync.Once
}

// Start starts tangd behind socat on a free port of the loopback interface, with
// new keys. The server ends with the test. If these programs or clevis are not
// installed, Start skips the test.
func Start(t testing.TB) *Server {
	t.Helper()
	const program = "/usr/libexec/tangd"
	must.Have(t, program, "socat", "clevis", "jose")
	keys := t.TempDir()
	if out, err := exec.Command(program+"-keygen", keys, "sig", "exc").CombinedOutput(); err != nil {
		t.Fatalf("make tang's keys: %v: %s", err, out)
	}
	listener := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	port := listener.Addr().(*net.TCPAddr).Port
	must.OK(t, listener.Close())
	var messages bytes.Buffer
	cmd := exec.Command("socat", fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", port), fmt.Sprintf("EXEC:%s %s", program, keys))
	cmd.Stderr = &messages
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must.OK(t, cmd.Start())
	s := &Server{URL: fmt.Sprintf("http://127.0.0.1:%d", port), cmd: cmd}
	t.Cleanup(s.Stop)
	if err := s.wait(); err != nil {
		s.Stop()
		t.Fatalf("tangd does not answer: %v: %s", err, &messages)
	}
	return s
}

// wait returns when the server responds.
func (s *Server) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/adv", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			return answer.Body.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond): // until it listens
		}
	}
}

// Stop ends the server. Calling it again does nothing.
func (s *Server) Stop() {
	s.once.Do(func() {
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		_ = s.cmd.Wait() // it was killed
	})
}
