package guestagent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Socket returns the agent at a unix socket on which QEMU listens, the chardev of a virtserialport. pid is the process
// that has to listen there, 0 for any: then nothing is sent to another one. The connection lasts for one command: QEMU
// serves one client at a time.
func Socket(path string, pid int) Agent {
	return func(ctx context.Context, command []byte) ([]byte, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("connect to the guest agent: %w", err)
		}
		defer func() { _ = conn.Close() }() // what was read counts
		if peer := hostproc.PeerPID(conn); pid != 0 && peer != pid {
			return nil, fmt.Errorf("%w: process %d, and not the VM's, listens at %s", ErrNone, peer, path)
		}
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // ends reads and writes
		reply, err := converse(conn, command)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the guest agent does not answer: %w", context.Cause(ctx))
		}
		return reply, err
	}
}

// delimiter is a byte that is part of no JSON text. It makes the agent drop what an earlier client has sent in part,
// and precedes the answer to guest-sync-delimited, after which come only answers to this client.
const delimiter = 0xff

// converse synchronises with the agent and runs one command.
func converse(conn net.Conn, command []byte) ([]byte, error) {
	var random [4]byte
	_, _ = rand.Read(random[:]) // it never fails
	id := binary.BigEndian.Uint32(random[:])
	r := &bounded{from: bufio.NewReader(conn), left: 2 * longestReply}
	sync := fmt.Sprintf("%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", 0, id)
	if _, err := conn.Write(append([]byte{delimiter}, sync[1:]...)); err != nil {
		return nil, err
	}
	for {
		if _, err := r.until(delimiter); err != nil {
			return nil, err
		}
		line, err := r.until('\n')
		if err != nil {
			return nil, err
		}
		var answer struct {
			Return json.Number `json:"return"`
		}
		if json.Unmarshal(line, &answer) == nil && answer.Return.String() == fmt.Sprint(id) {
			break
		}
	}
	if _, err := conn.Write(append(command, '\n')); err != nil {
		return nil, err
	}
	return r.until('\n')
}

// bounded reads at most left bytes.
type bounded struct {
	from *bufio.Reader
	left int
}

// until reads up to and including the end byte, which it leaves out.
func (b *bounded) until(end byte) ([]byte, error) {
	var out bytes.Buffer
	for {
		c, err := b.from.ReadByte()
		switch {
		case err != nil:
			return nil, errors.Join(errors.New("the guest agent's channel has ended"), err)
		case b.left == 0:
			return nil, errTooLong
		case c == end:
			return out.Bytes(), nil
		}
		b.left--
		out.WriteByte(c)
	}
}
