package hostproc

import (
	"net"

	"golang.org/x/sys/unix"
)

// PeerPID returns the id of the process at the other end of a unix socket, as the kernel has it (SO_PEERCRED, unix(7)):
// for a connection to a listening socket that is the process that listens. It returns 0 if it is not known.
func PeerPID(conn net.Conn) (pid int) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // fails on a closed connection only
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
