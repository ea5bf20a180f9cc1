package libvirtstore

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/luksplug/luksplug/secrets"
)

// The parts of libvirt's RPC (https://libvirt.org/kbase/internals/rpc.html) that
// valueConn reads.
const (
	headLen        = 28         // length of the packet, then six fields of 4 bytes
	remoteProgram  = 0x20008086 // REMOTE_PROGRAM
	secretGetValue = 145        // REMOTE_PROC_SECRET_GET_VALUE
	typeReply      = 1
	statusOK       = 0
	maxPacket      = 32 << 20 // libvirt's own limit
)

// valueConn is a connection to libvirt that takes the values out of the replies to
// virSecretGetValue: the library behind it, which would leave copies of them in its
// memory, gets zeros.
type valueConn struct {
	net.Conn
	pending []byte // to return next
	left    int    // bytes of the packet that are passed on

	mu    sync.Mutex
	value *secrets.Secret
}

// Read implements [net.Conn].
func (c *valueConn) Read(p []byte) (int, error) {
	if len(c.pending) == 0 && c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if len(c.pending) > 0 {
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// next reads the head of a packet, and the rest of it if it has a value.
func (c *valueConn) next() error {
	head := make([]byte, headLen)
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		return err
	}
	field := func(i int) uint32 { return binary.BigEndian.Uint32(head[4*i:]) }
	length, program, procedure, kind, status := field(0), field(1), field(3), field(4), field(6)
	if length < headLen || length > maxPacket {
		return fmt.Errorf("libvirt has sent a packet of %d bytes", length)
	}
	c.pending, c.left = head, int(length)-headLen
	if program != remoteProgram || procedure != secretGetValue || kind != typeReply || status != statusOK {
		return nil
	}
	rest := make([]byte, c.left)
	if _, err := io.ReadFull(c.Conn, rest); err != nil {
		clear(rest)
		return err
	}
	c.keep(rest)
	c.pending, c.left = append(head, rest...), 0
	return nil
}

// keep keeps the value in the reply, and clears the value there.
func (c *valueConn) keep(reply []byte) {
	const lengthLen = 4
	if len(reply) < lengthLen {
		return // the library reports it
	}
	n := binary.BigEndian.Uint32(reply)
	if uint64(n) > uint64(len(reply)-lengthLen) {
		clear(reply[lengthLen:])
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value.Wipe()
	c.value = secrets.New(reply[lengthLen:][:n])
}

// take returns the value that was read last, which the caller wipes; nil for none.
func (c *valueConn) take() *secrets.Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	value := c.value
	c.value = nil
	return value
}

// wipe clears everything. The connection must be closed.
func (c *valueConn) wipe() {
	c.take().Wipe()
	if encrypted, ok := c.Conn.(interface{ Wipe() }); ok {
		encrypted.Wipe()
	}
}
