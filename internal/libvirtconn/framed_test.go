package libvirtconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// packet returns the start of a packet of that length, and n bytes of it.
func packet(length uint32, n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, length), make([]byte, n)...)
}

// TestFramed: packets pass as they are, however they are cut, and one beyond libvirt's bounds ends the connection.
func TestFramed(t *testing.T) {
	t.Parallel()
	whole := append(packet(shortestPacket, shortestPacket-4), packet(1000, 996)...)
	for _, c := range []struct {
		name string
		send []byte
		bad  bool
	}{
		{"packets", whole, false},
		{"the longest", packet(longestPacket, 100), false},
		{"too long", append(bytes.Clone(whole), packet(longestPacket+1, 100)...), true},
		{"4 GiB", packet(0xffffffff, 0), true},
		{"shorter than a header", packet(shortestPacket-1, 100), true},
		{"empty", packet(0, 0), true},
	} {
		for _, size := range []int{1, 3, 4096} {
			near, far := net.Pipe()
			go func() {
				for rest := c.send; len(rest) > 0; {
					n, err := far.Write(rest[:min(size, len(rest))])
					if err != nil {
						return // the reader has ended the connection
					}
					rest = rest[n:]
				}
				_ = far.Close() // the reader gets all of it first
			}()
			got, err := io.ReadAll(&framed{Conn: near})
			var bad *packetError
			if errors.As(err, &bad) != c.bad || !c.bad && !bytes.Equal(got, c.send) {
				t.Errorf("%s, in parts of %d: %d bytes, %v", c.name, size, len(got), err)
			}
			_ = near.Close()
		}
	}
}

// TestConnectToAnotherServer: a server that does not speak libvirt's RPC is no reason to allocate what its first bytes
// say, or to panic.
func TestConnectToAnotherServer(t *testing.T) {
	t.Parallel()
	for _, greeting := range []string{"\xff\xff\xff\xff and so on", "\x00\x00\x00\x01 and so on", "220 mail.example ESMTP\r\n"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, greeting+strings.Repeat("x", 100)) // the client may be gone
			_, _ = io.Copy(io.Discard, conn)
		}()
		begin := time.Now()
		if err := connect(t.Context(), t, "qemu+tcp://"+listener.Addr().String()+"/system"); time.Since(begin) > 20*time.Second {
			t.Errorf("%q: %v after %s", greeting, err, time.Since(begin))
		}
	}
}
