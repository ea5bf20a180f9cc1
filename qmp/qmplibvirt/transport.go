package qmplibvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/internal/libvirterr"
)

// FilePasser passes one command together with a file to QEMU, and returns QEMU's reply. command is one JSON
// object without an id; it never holds a secret. The FilePasser may use f until it returns, which it must do
// soon after ctx has ended.
//
// The error wraps [qmp.ErrNotSent] if QEMU did not get the command. After any other, the command's outcome is
// unknown. [Virsh.PassFile] is one.
type FilePasser func(ctx context.Context, command []byte, f *os.File) (reply []byte, err error)

// NewClient makes a client that reaches domain's QEMU through libvirt's RPC: commands as QEMU monitor
// commands, events as QEMU monitor events (libvirt's qemu_protocol.x). l must be connected; it stays the
// caller's, and Close leaves it connected. ctx bounds this call alone. Commands with a File go through
// passFile; if it is nil, they fail with [qmp.ErrFileUnsupported].
//
// libvirt passes QEMU's replies on as they are, refusals included. It marks the domain as tainted
// (custom-monitor). Commands run one at a time, and a context that ends does not stop libvirt: the late reply
// is discarded. Events that come faster than the client takes them, as with a slow trace, end the connection with
// [qmp.ErrEventsLost]. go-libvirt drops events without data, such as STOP and RESUME. The bytes of a [qmp.Sensitive]
// pass through buffers of go-libvirt and libvirtd, which the client cannot wipe.
//
// Close ends the event subscription at libvirt once that can be done safely, which may be
// at the next event of the domain or when l disconnects.
func NewClient(ctx context.Context, l *libvirt.Libvirt, domain libvirt.Domain, passFile FilePasser, opts ...qmp.Option) (*qmp.Client, error) {
	t := &transport{libvirt: l, domain: domain, passFile: passFile}
	if err := t.subscribe(ctx); err != nil {
		return nil, fmt.Errorf("cannot receive QEMU's events of domain %s from libvirt: %w", domain.Name, err)
	}
	opts = append(opts[:len(opts):len(opts)], qmp.WithoutIDs(), qmp.WithAddress(fmt.Sprintf("libvirt:%x", domain.UUID[:])))
	c, err := qmp.NewClient(ctx, t, opts...)
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", domain.Name, err)
	}
	return c, nil
}

// transport is a domain's monitor at libvirt. It implements [qmp.Transport].
type transport struct {
	libvirt  *libvirt.Libvirt
	domain   libvirt.Domain
	passFile FilePasser // nil: none

	events <-chan libvirt.DomainEvent
	cancel context.CancelFunc // ends go-libvirt's part of the subscription; see Listen
}

func (t *transport) Run(ctx context.Context, command []byte, file *os.File) ([]byte, error) {
	if file != nil {
		return t.passFile(ctx, command, file)
	}
	reply, err := t.libvirt.QEMUDomainMonitorCommand(t.domain, string(command), 0)
	return []byte(reply), libvirterr.Mark(err)
}

func (t *transport) PassesFiles() bool { return t.passFile != nil }

// Close does nothing: the connection is the caller's, and Listen ends the subscription.
func (t *transport) Close() error { return nil }

// subscribe starts the subscription to the domain's events at libvirt. If it starts only after ctx has ended,
// subscribe ends it again.
func (t *transport) subscribe(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	streamCtx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	done := make(chan error, 1)
	go func() {
		var err error
		t.events, err = t.libvirt.SubscribeQEMUEvents(streamCtx, t.domain.Name)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			cancel()
		}
		return err
	case <-ctx.Done():
	}
	go func() {
		if err := <-done; err != nil {
			cancel()
			return
		}
		_ = t.Listen(ctx, nil) // ctx has ended, and no client is left to get events
	}()
	return ctx.Err()
}

var errEnded = errors.New("libvirt's connection ended")

// Listen implements [qmp.Transport].
//
// Ending the subscription needs care. When go-libvirt's stream is cancelled while libvirt still sends events,
// go-libvirt blocks for ever on the next one, and its whole connection with it. So the subscription at
// libvirt is ended first. That requires the subscription's callback id, which go-libvirt does not expose; but
// every event carries it. Before the first event, Listen waits for one.
//
// go-libvirt's queue has no bound, so Listen takes events from it however long publish needs, and fails with
// [qmp.ErrEventsLost] if they pile up: the caller connects again, and queries QEMU.
func (t *transport) Listen(ctx context.Context, publish func(qmp.Event)) (err error) {
	publishing, stop := context.WithCancel(ctx)
	pile := newBacklog(publishing, publish)
	defer func() {
		if err != nil {
			stop() // what is left is not published
		}
		pile.close()
		stop()
	}()
	drained := make(chan struct{})
	defer func() {
		t.cancel()
		<-drained
	}()
	callback, err := t.collect(ctx, pile)
	go func() {
		defer close(drained)
		for range t.events { // go-libvirt must not keep what still comes
			continue
		}
	}()
	if err == nil || errors.Is(err, qmp.ErrEventsLost) {
		// An error means that the connection is gone, or the subscription is.
		_ = t.libvirt.QEMUConnectDomainMonitorEventDeregister(callback)
	}
	return err
}

// collect takes events until ctx has ended and the subscription's callback id is known, which it returns.
func (t *transport) collect(ctx context.Context, pile *backlog) (callback int32, err error) {
	closing := ctx.Done()
	known, closed := false, false
	for !closed || !known {
		select {
		case event, ok := <-t.events:
			if !ok {
				return 0, errEnded
			}
			callback, known = event.CallbackID, true
			if !closed && ctx.Err() == nil && !pile.push(event) {
				return callback, qmp.ErrEventsLost
			}
		case <-closing:
			closing, closed = nil, true
		case <-t.libvirt.Disconnected():
			return 0, errEnded
		}
	}
	return callback, nil
}

// The bounds of the events that wait for publish.
const (
	backlogEvents = 4096
	backlogBytes  = 4 << 20 // of their data; an event alone may have more
	// dataLimit is the length of the data of one event, some hundred bytes for QEMU's own. Longer data is dropped.
	dataLimit = 1 << 20
)

// backlog publishes events in their order in a goroutine of its own.
type backlog struct {
	events chan libvirt.DomainEvent
	bytes  atomic.Int64
	done   chan struct{}
}

func newBacklog(ctx context.Context, publish func(qmp.Event)) *backlog {
	b := &backlog{events: make(chan libvirt.DomainEvent, backlogEvents), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for e := range b.events {
			b.bytes.Add(-int64(len(e.Details)))
			if ctx.Err() == nil {
				publish(parse(e))
			}
		}
	}()
	return b
}

// push adds an event. It reports false if there is no room.
func (b *backlog) push(e libvirt.DomainEvent) bool {
	if len(e.Details) > dataLimit {
		e.Details = nil
	}
	if held := b.bytes.Load(); held > 0 && held+int64(len(e.Details)) > backlogBytes {
		return false
	}
	b.bytes.Add(int64(len(e.Details)))
	select {
	case b.events <- e:
		return true
	default:
		return false
	}
}

// close publishes what is left and waits for that.
func (b *backlog) close() {
	close(b.events)
	<-b.done
}

func parse(from libvirt.DomainEvent) qmp.Event {
	event := qmp.Event{Event: from.Event}
	event.Timestamp.Seconds = int64(from.Seconds)
	event.Timestamp.Microseconds = int64(from.Microseconds)
	if len(from.Details) > 0 {
		if err := json.Unmarshal(from.Details, &event.Data); err != nil {
			// Publish the event even if its data is malformed, which QEMU never sends.
			event.Data = nil
		}
	}
	return event
}
