package qmp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/qmp/internal/qmptest"
)

// socketPair returns our end as a connection and the other as a file to inherit.
func socketPair(t testing.TB) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	qmptest.Must(t, err)
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { _ = far.Close() }) // a test may have closed it
	defer qmptest.Close(t, near)          // FileConn duplicates it
	conn, err := net.FileConn(near)
	qmptest.Must(t, err)
	return conn, far
}

// A QEMU that inherited one end of a socketpair is a monitor like any other,
// and takes files.
func TestNewConnSocketpair(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed: install QEMU to run this test")
	}
	conn, far := socketPair(t)
	cmd := exec.Command(binary, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=m,fd=3", "-mon", "chardev=m,mode=control")
	cmd.ExtraFiles = []*os.File{far}
	qmptest.Must(t, cmd.Start())
	t.Cleanup(func() {
		qmptest.Must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed: it has no success to report
	})
	qmptest.Must(t, far.Close())
	c, err := NewConn(qmptest.Context(t), conn)
	qmptest.Must(t, err)
	defer qmptest.Close(t, c)
	if pid, known := c.PeerPID(); !known || pid != os.Getpid() {
		t.Errorf("peer pid %d, %v; the pair was made by %d", pid, known, os.Getpid())
	}
	if !c.PassesFiles() {
		t.Error("PassesFiles is false")
	}
	_, err = c.Execute(qmptest.Context(t), Command{Execute: "add-fd", File: qmptest.Memfd(t, 512)})
	qmptest.Must(t, err)
}

// A connection that does not become a client is closed.
func TestNewConnClosesOnFailure(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		serve func(io.ReadWriter)
		wait  time.Duration
		want  error
	}{
		"silence":     {func(io.ReadWriter) {}, 50 * time.Millisecond, ErrNoGreeting},
		"not QMP":     {func(p io.ReadWriter) { _, _ = io.WriteString(p, "SSH-2.0\n") }, qmptest.Patience, ErrProtocol},
		"no commands": {func(p io.ReadWriter) { _, _ = io.WriteString(p, fakeGreeting+"\nrubbish\n") }, qmptest.Patience, ErrConnectionLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				test.serve(far)
				_, _ = io.Copy(io.Discard, far) // until the other end is closed
			}()
			ctx, cancel := context.WithTimeout(context.Background(), test.wait)
			defer cancel()
			if _, err := NewConn(ctx, near); !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
			qmptest.AwaitDone(t, closed)
			qmptest.Close(t, far)
		})
	}
}

func TestPassesFiles(t *testing.T) {
	t.Parallel()
	c, q := startNone(t)
	if !c.PassesFiles() || dialTest(t, q.TCP).PassesFiles() {
		t.Error("only a unix socket passes files by itself")
	}
}
