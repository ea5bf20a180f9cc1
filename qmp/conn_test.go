package qmp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// A QEMU that inherited one end of a socketpair is a monitor like any other, and takes files.
func TestNewConnSocketpair(t *testing.T) {
	t.Parallel()
	conn := qmptest.StartOver(t, qmptest.QEMUPath(t), "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=m,fd=3", "-mon", "chardev=m,mode=control")
	c, err := NewConn(qmptest.Context(t), conn)
	must.OK(t, err)
	defer qmptest.Close(t, c)
	if pid, known := c.PeerPID(); !known || pid != os.Getpid() {
		t.Errorf("peer pid %d, %v; the pair was made by %d", pid, known, os.Getpid())
	}
	if !c.PassesFiles() {
		t.Error("PassesFiles is false")
	}
	_, err = c.Execute(qmptest.Context(t), Command{Execute: "add-fd", File: qmptest.Memfd(t, 512)})
	must.OK(t, err)
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
