package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// qemu is a running QEMU without a machine.
type qemu struct {
	unix string // monitor on a unix socket
	tcp  string // monitor on TCP
	cmd  *exec.Cmd
	// exited is closed when the process has ended.
	exited chan struct{}
}

// startQEMU starts a QEMU with two monitors, whose sockets listen before it
// runs, so that nothing has to wait for them to appear.
func startQEMU(t testing.TB, args ...string) *qemu {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed: install QEMU to run this test")
	}
	path := filepath.Join(socketDir(t), "qmp.sock")
	unixListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer closeIt(t, unixListener)
	unixListener.SetUnlinkOnClose(false)
	tcpListener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer closeIt(t, tcpListener)
	unixFile, err := unixListener.File()
	must(t, err)
	defer closeIt(t, unixFile)
	tcpFile, err := tcpListener.File()
	must(t, err)
	defer closeIt(t, tcpFile)

	q := &qemu{unix: path, tcp: tcpListener.Addr().String(), exited: make(chan struct{})}
	q.cmd = exec.Command(binary, append([]string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=m0,fd=3,server=on,wait=off", "-mon", "chardev=m0,mode=control",
		"-chardev", "socket,id=m1,fd=4,server=on,wait=off", "-mon", "chardev=m1,mode=control",
	}, args...)...)
	q.cmd.ExtraFiles = []*os.File{unixFile, tcpFile}
	q.cmd.Stderr = os.Stderr
	must(t, q.cmd.Start())
	go func() {
		defer close(q.exited)
		_ = q.cmd.Wait() // killed: it has no success to report
	}()
	t.Cleanup(q.kill)
	return q
}

func (q *qemu) kill() {
	_ = q.cmd.Process.Kill() // it may have ended already
	<-q.exited
}

// startNone starts QEMU with no machine at all, and a client of it. QEMU 10.0.2
// dies now and then of a client that speaks while it is still setting up its
// monitor (an assertion in its JSON parser): then another one is started.
func startNone(t testing.TB, opts ...Option) (*Client, *qemu) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		q := startQEMU(t, "-machine", "none")
		c, err := Dial(testContext(t), q.unix, opts...)
		if err == nil {
			t.Cleanup(func() { closeIt(t, c) })
			return c, q
		}
		select {
		case <-q.exited:
		case <-time.After(2 * time.Second):
			t.Fatal(err)
		}
		if attempt == 3 {
			t.Fatal(err)
		}
		t.Logf("QEMU died as it was greeted: %v", err)
	}
}

func dialTest(t testing.TB, address string, opts ...Option) *Client {
	t.Helper()
	c, err := Dial(testContext(t), address, opts...)
	must(t, err)
	t.Cleanup(func() { closeIt(t, c) })
	return c
}

// socketDir is a folder with a short name: a unix socket's path has 107 bytes.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// fakePeer is a monitor that does what no real QEMU can be made to do. serve
// gets each connection in its own goroutine; the connection is closed after it.
func fakePeer(t testing.TB, serve func(p *fakeConn)) string {
	t.Helper()
	path := filepath.Join(socketDir(t), "fake.sock")
	listener, err := net.Listen("unix", path)
	must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer func() { _ = conn.Close() }() // the cleanup may have closed it
				serve(&fakeConn{Conn: conn, in: bufio.NewReader(conn)})
			}()
		}
	}()
	t.Cleanup(func() {
		closeIt(t, listener)
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close() // serve may have closed it
		}
		mu.Unlock()
		wg.Wait()
	})
	return path
}

// fakeConn is the fake peer's end of a connection.
type fakeConn struct {
	net.Conn
	in *bufio.Reader
}

const fakeGreeting = `{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"fake"},"capabilities":["oob"]}}`

// send writes lines in one write; false: the connection is gone.
func (f *fakeConn) send(lines ...string) bool {
	var text []byte
	for _, line := range lines {
		text = append(append(text, line...), '\r', '\n')
	}
	_, err := f.Write(text)
	return err == nil
}

type fakeCommand struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments"`
	ID        uint64         `json:"id"`
}

// receive reads one command; false: the connection is gone.
func (f *fakeConn) receive() (fakeCommand, bool) {
	line, err := f.in.ReadBytes('\n')
	if err != nil {
		return fakeCommand{}, false
	}
	var c fakeCommand
	if err := json.Unmarshal(line, &c); err != nil {
		return fakeCommand{}, false
	}
	return c, true
}

// greet does what QEMU does until capabilities are negotiated.
func (f *fakeConn) greet() bool {
	if !f.send(fakeGreeting) {
		return false
	}
	c, ok := f.receive()
	return ok && c.Execute == "qmp_capabilities" && f.send(reply(c.ID, "{}"))
}

// drain reads until the other side closes.
func (f *fakeConn) drain() { _, _ = io.Copy(io.Discard, f.in) }

func reply(id uint64, value string) string {
	return fmt.Sprintf(`{"return":%s,"id":%d}`, value, id)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closeIt(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// await returns the next value of a channel, and fails the test when it closes
// or nothing comes.
func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("the channel closed before %s", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
	}
	panic("unreachable")
}

// awaitClosed waits until a channel is closed, and returns how many values came
// before.
func awaitClosed[T any](t testing.TB, c <-chan T, what string) int {
	t.Helper()
	timeout := time.After(patience)
	for n := 0; ; n++ {
		select {
		case _, ok := <-c:
			if !ok {
				return n
			}
		case <-timeout:
			t.Fatalf("%s did not close within %s", what, patience)
		}
	}
}
