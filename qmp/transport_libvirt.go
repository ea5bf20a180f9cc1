package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// NewLibvirt makes a client that reaches domain's QEMU through libvirt's RPC:
// commands as QEMU monitor commands, events as QEMU monitor events (libvirt's
// qemu_protocol.x). l must be connected; it stays the caller's, and Close leaves
// it connected. ctx bounds this call alone.
//
// libvirt passes QEMU's replies on as they are, refusals included. It marks the
// domain as tainted (custom-monitor). Commands run one at a time, and a context
// that ends does not stop libvirt: the late answer is discarded. go-libvirt
// cannot pass descriptors; WithFilePasser gives such commands to another way. go-libvirt drops events without data, such as STOP and RESUME.
// The passphrase bytes of a Sensitive pass through buffers of go-libvirt and
// libvirtd, where the client cannot wipe them.
//
// Close ends the event subscription at libvirt once that can be done safely,
// which may be at the next event of the domain or when l disconnects.
func NewLibvirt(ctx context.Context, l *libvirt.Libvirt, domain libvirt.Domain, opts ...Option) (*Client, error) {
	o := newOptions(noID, opts)
	o.ids = noID
	s := newSession(o)
	events := &libvirtEvents{libvirt: l, session: s, closing: make(chan struct{})}
	subscribe := func() error { return events.subscribe(domain.Name) }
	if err := withContext(ctx, subscribe, events.close); err != nil {
		return nil, fmt.Errorf("cannot receive QEMU's events of domain %s from libvirt: %w", domain.Name, err)
	}
	run := func(command []byte) ([]byte, error) {
		reply, err := l.QEMUDomainMonitorCommand(domain, string(command), 0)
		return []byte(reply), err
	}
	t := newSerial(s, run, func() error { events.close(); return nil })
	t.passFile = o.passFile
	c := newClient(s, t, o)
	c.address = fmt.Sprintf("libvirt:%x", domain.UUID[:])
	if err := c.queryVersion(ctx); err != nil {
		_ = c.Close() // the first error is the one to tell
		return nil, fmt.Errorf("domain %s: %w", domain.Name, err)
	}
	return c, nil
}

// libvirtRefused says whether libvirt's error means that QEMU never got the
// command. With others, an internal error for one, that cannot be told.
func libvirtRefused(err libvirt.Error) bool {
	switch libvirt.ErrorNumber(err.Code) {
	case libvirt.ErrNoDomain, libvirt.ErrInvalidDomain, libvirt.ErrNoSupport, libvirt.ErrNoConnect,
		libvirt.ErrOperationInvalid,  // the domain is not running
		libvirt.ErrOperationDenied,   // a read-only connection
		libvirt.ErrAccessDenied,      // policy
		libvirt.ErrAuthFailed,        //
		libvirt.ErrAuthUnavailable,   //
		libvirt.ErrAuthCancelled,     //
		libvirt.ErrOperationTimeout,  // another job holds the domain's lock
		libvirt.ErrConfigUnsupported, //
		libvirt.ErrOperationUnsupported:
		return true
	}
	return false
}

// libvirtEvents is the subscription to a domain's events at libvirt.
type libvirtEvents struct {
	libvirt *libvirt.Libvirt
	session *session

	closeOnce sync.Once
	closing   chan struct{} // closed by close
}

func (e *libvirtEvents) close() { e.closeOnce.Do(func() { close(e.closing) }) }

// subscribe starts the subscription.
func (e *libvirtEvents) subscribe(domain string) error {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := e.libvirt.SubscribeQEMUEvents(ctx, domain)
	if err != nil {
		cancel()
		return err
	}
	go func() {
		defer cancel()
		e.pump(stream, cancel)
	}()
	return nil
}

// pump moves events to the session until the subscription ends.
//
// Ending it takes care. When go-libvirt's stream is cancelled while libvirt still
// sends events, go-libvirt blocks for ever on the next one, and its whole
// connection with it. So libvirt is asked first to send no more. That takes the
// subscription's callback id, which go-libvirt keeps to itself; but every event
// carries it. Without an event so far, the pump stays until one comes.
func (e *libvirtEvents) pump(stream <-chan libvirt.DomainEvent, cancel context.CancelFunc) {
	closing := e.closing
	callback, known, closed := int32(0), false, false
	for {
		select {
		case event, ok := <-stream:
			if !ok {
				e.session.fail(fmt.Errorf("%w: libvirt's connection ended", ErrConnectionLost))
				return
			}
			callback, known = event.CallbackID, true
			if !closed {
				e.publish(event)
			}
		case <-closing:
			closing, closed = nil, true
		case <-e.libvirt.Disconnected():
			e.session.fail(fmt.Errorf("%w: libvirt's connection ended", ErrConnectionLost))
			cancel()
			for range stream { // go-libvirt may be about to hand over one more
				continue
			}
			return
		}
		if closed && known {
			// An error means that the connection is gone, or the subscription is.
			_ = e.libvirt.QEMUConnectDomainMonitorEventDeregister(callback)
			cancel()
			for range stream {
				continue
			}
			return
		}
	}
}

func (e *libvirtEvents) publish(from libvirt.DomainEvent) {
	event := Event{Event: from.Event}
	event.Timestamp.Seconds = int64(from.Seconds)
	event.Timestamp.Microseconds = int64(from.Microseconds)
	if len(from.Details) > 0 {
		if err := json.Unmarshal(from.Details, &event.Data); err != nil {
			// The event itself matters more than data that QEMU would never send so.
			event.Data = nil
		}
	}
	e.session.foreignEvent(event)
}
