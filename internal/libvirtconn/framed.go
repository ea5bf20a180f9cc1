package libvirtconn

import (
	"encoding/binary"
	"fmt"
	"net"
)

// The bounds of one packet of libvirt's RPC (src/rpc/virnetprotocol.x): the header, and VIR_NET_MESSAGE_MAX with
// its length word.
const (
	shortestPacket = 28
	longestPacket  = 32<<20 + 4
)

// packetError is about a peer that does not speak libvirt's RPC.
type packetError struct{ length uint32 }

func (e *packetError) Error() string {
	return fmt.Sprintf("the peer does not speak libvirt's RPC: it announced a packet of %d bytes", e.length)
}

// framed ends a connection whose peer announces a packet beyond libvirt's bounds. go-libvirt would allocate what the
// peer announces, up to 4 GiB, before it is there, and panic for a packet that is shorter than its header.
type framed struct {
	net.Conn
	word []byte // the bytes of a length word that have been read
	rest uint32 // of the packet
}

// Read implements [net.Conn]. Only one goroutine of go-libvirt's reads.
func (f *framed) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if bad := f.check(p[:n]); bad != nil {
		_ = f.Close() // that of bad counts
		return 0, bad
	}
	return n, err
}

// check follows the packets in what was read.
func (f *framed) check(p []byte) error {
	for len(p) > 0 {
		if f.rest > 0 {
			skip := min(uint64(f.rest), uint64(len(p)))
			f.rest -= uint32(skip)
			p = p[skip:]
			continue
		}
		f.word, p = append(f.word, p[0]), p[1:]
		if len(f.word) < 4 {
			continue
		}
		length := binary.BigEndian.Uint32(f.word)
		if f.word = f.word[:0]; length < shortestPacket || length > longestPacket {
			return &packetError{length}
		}
		f.rest = length - 4
	}
	return nil
}
