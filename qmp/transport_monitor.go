package qmp

import (
	"context"
	"errors"
	"fmt"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

// closeWait bounds how long Close waits for a foreign monitor to disconnect:
// go-qemu's and go-libvirt's calls know neither context nor deadline.
const closeWait = 5 * time.Second

// WithConnect makes NewMonitor call the monitor's Connect first.
func WithConnect() Option { return func(o *options) { o.connect = true } }

// WithoutIDs makes NewMonitor send commands without an id. It is meant for
// monitors of one's own that go through libvirt, which adds an id itself and
// refuses a command that has one. go-qemu's LibvirtRPCMonitor is recognised.
func WithoutIDs() Option { return func(o *options) { o.ids = noID } }

// NewMonitor makes a client of any monitor of go-qemu. The client owns the
// monitor from then on: it reads its Events, and Close calls Disconnect, as does
// NewMonitor itself if it fails.
//
// The monitor must be connected. WithConnect connects it, and a SocketMonitor
// that is not yet connected is noticed without that. ctx bounds this call alone.
//
// Dial is the better choice for a socket. A Monitor runs one command at a time
// and cannot be interrupted: when a caller's context ends, the answer is
// discarded when it comes, and later commands wait for it. SocketMonitor breaks
// on replies over 64 KiB (so Schema fails), and passes no error class: its
// refusals, errors made by errors.New, become an Error of class GenericError,
// every other error of Run means that the outcome is unknown. Files cannot be
// passed. If the monitor has no events, subscriptions stay silent.
func NewMonitor(ctx context.Context, m goqemu.Monitor, opts ...Option) (*Client, error) {
	o := newOptions(stringID, opts)
	if _, ok := m.(*goqemu.LibvirtRPCMonitor); ok {
		o.ids = noID
	}
	if s, ok := m.(*goqemu.SocketMonitor); ok {
		o.connect = s.Version == nil // set by Connect, whose second call would wait for ever
	}
	session := newSession(o)
	if o.connect {
		if err := withContext(ctx, m.Connect, func() {}); err != nil {
			_ = withTimeout(closeWait, m.Disconnect) // the first error is the one to tell
			return nil, fmt.Errorf("cannot connect the QMP monitor (does another client hold it?): %w", err)
		}
	}
	pumpCtx, cancel := context.WithCancel(context.Background())
	pumped := make(chan struct{})
	stop := make(chan struct{})
	disconnect := func() error {
		cancel()
		defer close(stop) // the pump must go on until here: SocketMonitor.Disconnect waits for it
		return m.Disconnect()
	}
	t := newSerial(session, m.Run, func() error {
		err := withTimeout(closeWait, disconnect)
		select {
		case <-pumped:
		case <-time.After(closeWait):
		}
		return err
	})
	events, err := m.Events(pumpCtx)
	switch {
	case errors.Is(err, goqemu.ErrEventsNotSupported):
		close(pumped)
	case err != nil:
		close(pumped)
		_ = t.close() // the first error is the one to tell
		return nil, fmt.Errorf("cannot receive events from the QMP monitor: %w", err)
	default:
		go pumpEvents(session, events, stop, pumped)
	}
	c := newClient(session, t, o)
	if err := c.queryVersion(ctx); err != nil {
		_ = c.Close() // the first error is the one to tell
		return nil, err
	}
	return c, nil
}

// pumpEvents moves a monitor's events to the session. The end of the channel
// is the only sign that go-qemu gives of a lost connection.
func pumpEvents(s *session, events <-chan Event, stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				s.fail(fmt.Errorf("%w: the monitor's events ended", ErrConnectionLost))
				return
			}
			s.foreignEvent(e)
		case <-stop:
			return
		}
	}
}

// withContext runs f; if ctx ends first it calls abort and leaves f behind.
func withContext(ctx context.Context, f func() error, abort func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		abort()
		return ctx.Err()
	}
}

// withTimeout runs f, and leaves it behind after d.
func withTimeout(d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return withContext(ctx, f, func() {})
}
