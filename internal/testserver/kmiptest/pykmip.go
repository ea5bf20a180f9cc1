package kmiptest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// launcher starts PyKMIP's server so that its own child processes end with it.
const launcher = `
import ctypes, os
prctl = ctypes.CDLL(None).prctl
os.register_at_fork(after_in_child=lambda: prctl(1, 9))
from kmip.services.server import server
server.main()
`

// python is Debian's Python, which has the PyKMIP package; PATH may find another one.
const python = "/usr/bin/python3"

// PyKMIP starts PyKMIP's server, which ends with the test, and returns its address.
// It skips the test if PyKMIP is not installed. Each client sees only its own
// objects, by the name in its certificate.
func PyKMIP(t testing.TB, a *Authority) string {
	t.Helper()
	must.Have(t, "pykmip-server")
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // PyKMIP does not support port 0
	must.OK(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	must.OK(t, listener.Close())
	pair := a.Server(t)
	config := filepath.Join(dir, "server.conf")
	must.OK(t, os.WriteFile(config, fmt.Appendf(nil, `[server]
hostname=127.0.0.1
port=%d
certificate_path=%s
key_path=%s
ca_path=%s
auth_suite=TLS1.2
policy_path=%s
enable_tls_client_auth=True
logging_level=WARNING
database_path=%s
`, port, pair.Certificate, pair.Key, a.File, dir, filepath.Join(dir, "db")), 0o600))
	cmd := exec.Command(python, "-W", "ignore", "-c", launcher, "-f", config, "-l", filepath.Join(dir, "log"))
	output := must.Get(os.Create(filepath.Join(dir, "output")))(t)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.OK(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // reports that it was killed
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it ignores SIGTERM
		<-done
		_ = output.Close()
		if t.Failed() {
			for _, name := range []string{"output", "log"} {
				text, _ := os.ReadFile(filepath.Join(dir, name))
				t.Logf("PyKMIP: %s: %s", name, text)
			}
		}
	})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	await(t, address, done)
	return address
}

// await polls until the server listens: it sends no notification.
func await(t testing.TB, address string, done <-chan struct{}) {
	t.Helper()
	const patience = time.Minute
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-done:
			t.Fatal("PyKMIP's server has ended")
		case <-ctx.Done():
			t.Fatalf("PyKMIP's server does not listen: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
