package wipe

import (
	"encoding/binary"
	"net"
	"sync"
	"unsafe"
)

// Conn is a connection that remembers the buffers it reads into and writes from, to clear
// them. Above TLS or below a library that reads through a buffer, these are
// the library's buffers, which the program cannot reach otherwise.
//
// A library that copies from its buffers has to be dealt with separately.
type Conn struct {
	net.Conn
	buffers Buffers
}

// NewConn returns conn as a Conn.
func NewConn(conn net.Conn) *Conn { return &Conn{Conn: conn} }

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	c.buffers.Add(p)
	return c.Conn.Read(p)
}

// Write implements [net.Conn].
func (c *Conn) Write(p []byte) (int, error) {
	c.buffers.Add(p)
	return c.Conn.Write(p)
}

// Wipe clears the buffers. Nothing that was read into them may be in use.
func (c *Conn) Wipe() { c.buffers.Clear() }

// Buffers are pieces of memory to clear. The zero value is ready to use. It is safe for
// concurrent use.
type Buffers struct {
	mu  sync.Mutex
	all map[*byte][]byte // by the end of their memory
}

// Add adds the memory of p, with its capacity.
func (b *Buffers) Add(p []byte) {
	p = p[:cap(p)]
	if len(p) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[*byte][]byte{}
	}
	end := &p[len(p)-1]
	if len(p) > len(b.all[end]) {
		b.all[end] = p
	}
}

// Clear clears all of them.
func (b *Buffers) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.all {
		clear(p)
	}
	b.all = nil
}

// TLSConn is a connection below TLS. crypto/tls decrypts a record in the buffer into which it
// has read it, and leaves it there; a TLSConn remembers these buffers, to clear them.
//
// It reads at most to the end of a record's header or of its content. So crypto/tls has no
// more than a header in a buffer that it replaces by a larger one, and reads each content as a
// whole into memory that the TLSConn has seen.
type TLSConn struct {
	net.Conn
	buffers Buffers
	header  [5]byte // of the current record (RFC 8446, section 5.1)
	have    int     // bytes of header
	left    int     // bytes of the record's content that have not been read
}

// NewTLSConn returns conn as a TLSConn.
func NewTLSConn(conn net.Conn) *TLSConn { return &TLSConn{Conn: conn} }

// Read implements [net.Conn].
func (c *TLSConn) Read(p []byte) (int, error) {
	c.buffers.Add(p)
	if c.left > 0 {
		n, err := c.Conn.Read(p[:min(len(p), c.left)])
		c.left -= n
		return n, err
	}
	n, err := c.Conn.Read(p[:min(len(p), len(c.header)-c.have)])
	copy(c.header[c.have:], p[:n])
	if c.have += n; c.have == len(c.header) {
		c.have, c.left = 0, int(binary.BigEndian.Uint16(c.header[3:]))
	}
	return n, err
}

// Wipe clears the buffers. The TLS connection above must not be in use.
func (c *TLSConn) Wipe() { c.buffers.Clear() }

// String returns value as a string that shares its memory, for a library that takes a string.
// It is valid as long as value is.
func String(value []byte) string { return unsafe.String(unsafe.SliceData(value), len(value)) }
