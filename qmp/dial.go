package qmp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Dial connects to a QEMU's monitor and negotiates capabilities, enabling none (not "oob" in particular).
//
// address is a unix socket ("/run/vm1.sock", "./vm1.sock", "unix:vm1.sock") or TCP ("localhost:4444",
// "tcp:[::1]:4444"). An address with a slash or without a port is a unix socket.
//
// ctx bounds all of it, the wait for QEMU's greeting included; it has no effect on the client afterwards. A
// QEMU that is busy with another client does not greet: then the error is ErrNoGreeting, once ctx has ended.
func Dial(ctx context.Context, address string, opts ...Option) (*Client, error) {
	network, target := splitAddress(address)
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, target)
	if err != nil {
		if _, limited := ctx.Deadline(); limited && os.IsTimeout(err) {
			<-ctx.Done() // package net notices first
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, dialError(address, network, target, err)
	}
	c, err := NewConn(ctx, conn, opts...)
	if err != nil {
		return nil, fmt.Errorf("QMP monitor %s: %w", address, err)
	}
	return c, nil
}

// NewConn makes a client of an open connection to a QEMU's monitor: a unix socket, one end of a socketpair
// whose other end QEMU inherited, TCP. It negotiates as Dial does. The connection is the client's from then
// on; if NewConn fails, it is closed.
//
// ctx bounds the negotiation alone, ErrNoGreeting included.
func NewConn(ctx context.Context, conn net.Conn, opts ...Option) (*Client, error) {
	o := newOptions(numericID, opts)
	s := newSession(o)
	t := newSocket(conn, s)
	greeting, err := t.greet(ctx)
	if err != nil {
		_ = conn.Close() // the first error counts
		return nil, err
	}
	t.start()
	c := newClient(s, t, o)
	c.lastID.Store(firstID())
	c.setVersion(greeting.Version)
	c.peerPID = hostproc.PeerPID(conn)
	c.address, c.local, c.remote = addressOf(conn), conn.LocalAddr(), conn.RemoteAddr()
	if _, err := c.Execute(ctx, Command{Execute: "qmp_capabilities"}); err != nil {
		_ = c.Close() // the first error counts
		return nil, err
	}
	return c, nil
}

// firstID returns the number of a connection's first command. No two connections have the same numbers: QEMU sends
// the replies of a client that was killed to the next client, which must not take them for replies to its own
// commands. There is room for 65536 commands between two first numbers, and the numbers stay exact in readers that
// treat JSON's numbers as floating point.
func firstID() uint64 { return uint64(rand.Uint32()) << 16 }

// splitAddress returns the network and address for net.Dial.
func splitAddress(address string) (network, target string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix", path
	}
	if hostPort, ok := strings.CutPrefix(address, "tcp:"); ok {
		return "tcp", hostPort
	}
	if _, _, err := net.SplitHostPort(address); err == nil && !strings.Contains(address, "/") {
		return "tcp", address
	}
	return "unix", address
}

// addressOf names the monitor at the other end, if it has a name that is the same for all programs.
func addressOf(conn net.Conn) string {
	address := conn.RemoteAddr()
	if address == nil || address.Network() == "unix" && !strings.HasPrefix(address.String(), "/") {
		return ""
	}
	return address.Network() + ":" + address.String()
}
