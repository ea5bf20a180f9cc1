package qmp

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// errFile: Command.File is closed or nil inside; the connection is fine.
var errFile = errors.New("cannot pass the file")

// write writes the calls in order. On error it returns how many were written completely, and whether the next
// one was torn, which means written in part.
func (s *socket) write(calls []*call) (sent int, torn bool, err error) {
	for sent < len(calls) {
		end := segment(calls, sent)
		var n int
		if calls[sent].file != nil {
			n, err = s.writeWithFile(calls[sent])
		} else {
			n, err = s.writeJoined(calls[sent:end])
		}
		if err != nil {
			for n > 0 && n >= len(calls[sent].wire) {
				n -= len(calls[sent].wire)
				sent++
			}
			return sent, n > 0, err
		}
		sent = end
	}
	return sent, false, nil
}

// segment returns the end of the run of calls from start that go into one write: a call with a file goes
// alone. QEMU gives the descriptors of one sendmsg to one command only (chardev/char-socket.c, tcp_chr_recv).
func segment(calls []*call, start int) int {
	end := start + 1
	if calls[start].file != nil {
		return end
	}
	for end < len(calls) && calls[end].file == nil {
		end++
	}
	return end
}

func (s *socket) writeJoined(calls []*call) (int, error) {
	size := 0
	for _, c := range calls {
		s.showSent(c)
		size += len(c.wire)
	}
	if len(calls) == 1 {
		return s.conn.Write(calls[0].wire)
	}
	joined := make([]byte, 0, size)
	for _, c := range calls {
		joined = append(joined, c.wire...)
	}
	defer clear(joined) // it may hold secrets
	return s.conn.Write(joined)
}

// writeWithFile sends one call and its descriptor in one sendmsg.
func (s *socket) writeWithFile(c *call) (int, error) {
	conn := s.conn.(*net.UnixConn) // send has refused others
	raw, err := c.file.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errFile, err)
	}
	s.showSent(c)
	var n int
	var writeErr error
	// Control keeps the descriptor open meanwhile. File.Fd would not, and would
	// put the file into blocking mode.
	err = raw.Control(func(fd uintptr) {
		n, _, writeErr = conn.WriteMsgUnix(c.wire, unix.UnixRights(int(fd)), nil)
	})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errFile, err)
	}
	if writeErr != nil || n == len(c.wire) {
		return n, writeErr
	}
	rest, err := conn.Write(c.wire[n:]) // the descriptor has gone with the first byte
	return n + rest, err
}

func (s *socket) showSent(c *call) {
	if c.shown != nil {
		s.session.trace.entry(Sent, c.shown)
	}
}
