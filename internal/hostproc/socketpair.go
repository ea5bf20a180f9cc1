package hostproc

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// SocketPair returns a connection and the file of its other end, which a process that this one starts can inherit
// (socketpair(2), a stream). The caller closes both.
func SocketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	conn, err := net.FileConn(near)
	_ = near.Close() // conn is a copy
	if err != nil {
		_ = far.Close() // nothing was written
		return nil, nil, fmt.Errorf("use a socket pair: %w", err)
	}
	return conn, far, nil
}
