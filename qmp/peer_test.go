package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startNone starts a QEMU without a machine, and a client of it.
func startNone(t testing.TB, opts ...Option) (*Client, *qmptest.QEMU) {
	t.Helper()
	return qmptest.StartNone(t, func(ctx context.Context, address string) (*Client, error) { return Dial(ctx, address, opts...) })
}

func dialTest(t testing.TB, address string, opts ...Option) *Client {
	t.Helper()
	c, err := Dial(qmptest.Context(t), address, opts...)
	must.OK(t, err)
	t.Cleanup(func() { qmptest.Close(t, c) })
	return c
}

// fakePeer is a monitor that behaves as no real QEMU can be made to. serve gets each connection
// in its own goroutine; the connection is closed after it.
func fakePeer(t testing.TB, serve func(p *fakeConn)) string {
	t.Helper()
	path := filepath.Join(qmptest.SocketDir(t), "fake.sock")
	listener, err := net.Listen("unix", path)
	must.OK(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
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
	})
	t.Cleanup(func() {
		qmptest.Close(t, listener)
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close() // serve may have closed it
		}
		mu.Unlock()
		wg.Wait()
	})
	return path
}

// greetingPeer is a fakePeer that has negotiated capabilities before serve gets the connection.
func greetingPeer(t testing.TB, serve func(p *fakeConn)) string {
	t.Helper()
	return fakePeer(t, func(p *fakeConn) {
		if p.greet() {
			serve(p)
		}
	})
}

// traceTo makes a client write its trace to a log.
func traceTo(l *qmptest.Log) Option {
	return WithTrace(func(e TraceEntry) { l.Add(e.Direction, e.JSON) })
}

// isUnknown reports whether err says that a command's outcome is unknown.
func isUnknown(err error) bool {
	_, unknown := qmptest.ErrorAs[*UnknownOutcomeError](err)
	return unknown
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
	var c fakeCommand
	ok := err == nil && json.Unmarshal(line, &c) == nil
	return c, ok
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
