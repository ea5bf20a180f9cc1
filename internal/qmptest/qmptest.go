// Package qmptest has helpers for the tests of package qmp, of its transports and of its schema cache.
package qmptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// Patience bounds every wait of a test.
const Patience = 30 * time.Second

// Context returns a context that ends after Patience.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// QEMU is a running QEMU without a machine.
type QEMU struct {
	Unix string // monitor on a unix socket
	TCP  string // monitor on TCP
	Cmd  *exec.Cmd
	// Exited is closed when the process has ended.
	Exited chan struct{}
}

// Program returns the path of a program, and skips the test if it is not installed.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: install QEMU and its tools to run this test", name)
	}
	return path
}

// QEMUPath returns the path of the emulator.
func QEMUPath(t testing.TB) string {
	t.Helper()
	return Program(t, "qemu-system-x86_64")
}

// StartQEMU starts a QEMU with two monitors, whose sockets listen before it
// runs, so that nothing has to wait for them to appear.
func StartQEMU(t testing.TB, args ...string) *QEMU {
	t.Helper()
	return StartProgram(t, QEMUPath(t), args...)
}

// StartProgram is StartQEMU with the emulator at a path.
func StartProgram(t testing.TB, binary string, args ...string) *QEMU {
	t.Helper()
	path := filepath.Join(SocketDir(t), "qmp.sock")
	unixListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must.OK(t, err)
	defer Close(t, unixListener)
	unixListener.SetUnlinkOnClose(false)
	tcpListener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must.OK(t, err)
	defer Close(t, tcpListener)
	unixFile, err := unixListener.File()
	must.OK(t, err)
	defer Close(t, unixFile)
	tcpFile, err := tcpListener.File()
	must.OK(t, err)
	defer Close(t, tcpFile)

	q := &QEMU{Unix: path, TCP: tcpListener.Addr().String(), Exited: make(chan struct{})}
	q.Cmd = exec.Command(binary, append([]string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=m0,fd=3,server=on,wait=off", "-mon", "chardev=m0,mode=control",
		"-chardev", "socket,id=m1,fd=4,server=on,wait=off", "-mon", "chardev=m1,mode=control",
	}, args...)...)
	q.Cmd.ExtraFiles = []*os.File{unixFile, tcpFile}
	q.start(t)
	return q
}

func (q *QEMU) start(t testing.TB) {
	t.Helper()
	q.Cmd.Stderr = os.Stderr
	must.OK(t, q.Cmd.Start())
	go func() {
		defer close(q.Exited)
		_ = q.Cmd.Wait() // killed: it has no success to report
	}()
	t.Cleanup(q.Kill)
}

// StartOver starts a program with one end of a socketpair as descriptor 3, and returns the other end.
func StartOver(t testing.TB, binary string, args ...string) net.Conn {
	t.Helper()
	conn, far, err := hostproc.SocketPair()
	must.OK(t, err)
	defer Close(t, far)
	q := &QEMU{Cmd: exec.Command(binary, args...), Exited: make(chan struct{})}
	q.Cmd.ExtraFiles = []*os.File{far}
	q.start(t)
	return conn
}

// Kill ends the QEMU and waits for it.
func (q *QEMU) Kill() {
	_ = q.Cmd.Process.Kill() // it may have ended already
	<-q.Exited
}

// StartNone starts a QEMU without a machine, and a client that dial makes. QEMU 10.0.2 sometimes dies if a client
// sends while it still sets up its monitor (an assertion in its JSON parser): then StartNone starts another one.
func StartNone[C io.Closer](t testing.TB, dial func(ctx context.Context, address string) (C, error)) (C, *QEMU) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		q := StartQEMU(t, "-machine", "none")
		c, err := dial(Context(t), q.Unix)
		if err == nil {
			t.Cleanup(func() { Close(t, c) })
			return c, q
		}
		select {
		case <-q.Exited:
		case <-time.After(2 * time.Second):
			t.Fatal(err)
		}
		if attempt == 3 {
			t.Fatal(err)
		}
		t.Logf("QEMU died at the greeting: %v", err)
	}
}

// SocketDir is a directory with a short name: a unix socket's path has 107 bytes.
func SocketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp")
	must.OK(t, err)
	t.Cleanup(func() { must.OK(t, os.RemoveAll(dir)) })
	return dir
}

// Memfd returns a file in memory.
func Memfd(t testing.TB, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	must.OK(t, err)
	file := os.NewFile(uintptr(fd), "memfd")
	t.Cleanup(func() { _ = file.Close() }) // a test may have closed it
	must.OK(t, file.Truncate(size))
	return file
}

// WriteProgram makes a program of shell commands at path, which it returns.
func WriteProgram(t testing.TB, path, commands string) string {
	t.Helper()
	WriteExecutable(t, path, []byte("#!/bin/sh\n"+commands+"\n"))
	return path
}

// WriteExecutable makes a program. A process that another test forks meanwhile inherits the file open for writing for
// a moment, and the kernel refuses to run it then; so a lock prevents forks.
func WriteExecutable(t testing.TB, path string, text []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	must.OK(t, os.WriteFile(path, text, 0o700))
}

// Start calls execute, a client's method, in a goroutine, and returns a channel for its error.
func Start[C, R any](ctx context.Context, execute func(context.Context, C) (R, error), command C) <-chan error {
	errs := make(chan error, 1)
	go func() {
		_, err := execute(ctx, command)
		errs <- err
	}()
	return errs
}

// Close closes c, and fails the test if that fails.
func Close(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// Await returns the next value of a channel, and fails the test when it closes or nothing comes.
func Await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("the channel closed before %s", what)
		}
		return v
	case <-time.After(Patience):
		t.Fatalf("no %s within %s", what, Patience)
	}
	panic("unreachable")
}

// AwaitClosed waits until a channel is closed, and returns how many values came before.
func AwaitClosed[T any](t testing.TB, c <-chan T, what string) int {
	t.Helper()
	timeout := time.After(Patience)
	for n := 0; ; n++ {
		select {
		case _, ok := <-c:
			if !ok {
				return n
			}
		case <-timeout:
			t.Fatalf("%s did not close within %s", what, Patience)
		}
	}
}

// AwaitDone waits for a channel that is only ever closed.
func AwaitDone(t testing.TB, c <-chan struct{}) {
	t.Helper()
	AwaitClosed(t, c, "the channel")
}

// ErrorAs returns the error of type T in err's tree, and reports whether there is one.
func ErrorAs[T error](err error) (T, bool) {
	var target T
	ok := errors.As(err, &target)
	return target, ok
}

// Log gathers a trace. It may be used from any number of goroutines at once.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Add adds a message.
func (l *Log) Add(direction fmt.Stringer, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s %s\n", direction, text)
}

// String returns all messages, one a line.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
