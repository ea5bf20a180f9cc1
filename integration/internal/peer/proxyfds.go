package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// commandReader splits the input from a client into JSON values and assigns the descriptors to them.
type commandReader struct {
	conn    net.Conn
	pending []byte // received, not yet returned
	fds     []int  // received with the last byte of pending
}

// next returns the next JSON value and the descriptors that came with it. The caller closes them.
//
// The kernel ends a read after the bytes of one sendmsg that carried descriptors, so these belong to the
// value that holds the read's last byte. Once its text is complete, it is the last in pending.
func (r *commandReader) next() ([]byte, []int, error) {
	for {
		n, err := firstValue(r.pending)
		if err == nil {
			value := r.pending[:n:n]
			r.pending = r.pending[n:]
			if len(bytes.TrimSpace(r.pending)) > 0 {
				return value, nil, nil
			}
			fds := r.fds
			r.fds = nil
			return value, fds, nil
		}
		if !errors.Is(err, errNoValue) {
			// Not JSON: forward it, so that QEMU itself reports the error.
			value := r.pending
			r.pending = nil
			return value, nil, nil
		}
		if err := r.receive(); err != nil {
			return nil, nil, err
		}
	}
}

// receive reads once.
func (r *commandReader) receive() error {
	data := make([]byte, 64<<10)
	conn, ok := r.conn.(*net.UnixConn)
	if !ok { // TCP passes no descriptors
		n, err := r.conn.Read(data)
		r.pending = append(r.pending, data[:n]...)
		return err
	}
	control := make([]byte, unix.CmsgSpace(16*4)) // QEMU takes at most 16 at a time
	n, controlled, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	r.pending = append(r.pending, data[:n]...)
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		return fmt.Errorf("read passed descriptors: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fmt.Errorf("read passed descriptors: %w", err)
		}
		r.fds = append(r.fds, fds...)
	}
	return nil
}

// sendWithFDs writes data, the descriptors with its first byte.
func sendWithFDs(conn *net.UnixConn, data []byte, fds []int) error {
	if len(fds) == 0 {
		_, err := conn.Write(data)
		return err
	}
	n, _, err := conn.WriteMsgUnix(data, unix.UnixRights(fds...), nil)
	if err == nil && n < len(data) {
		_, err = conn.Write(data[n:])
	}
	return err
}

// closeFDs closes descriptors.
func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // ours alone; nothing was written through it
	}
}
