package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// link is a connection to a socket of QEMU's, from which lines are read.
type link struct {
	mu   sync.Mutex
	conn net.Conn
	r    *bufio.Reader
}

func dialLink(ctx context.Context, network, address string) (*link, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	return &link{conn: conn, r: bufio.NewReader(conn)}, nil
}

// bound makes the end of ctx interrupt reads and writes, until the returned function is called.
func (l *link) bound(ctx context.Context) func() {
	_ = l.conn.SetDeadline(time.Time{}) // fails only on a closed connection, which the next use reports
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// failed adds the error of ctx, if that has caused an I/O error.
func (l *link) failed(ctx context.Context, what string, err error) error {
	if cause := ctx.Err(); cause != nil {
		err = errors.Join(cause, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
