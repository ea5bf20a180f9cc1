package qmplibvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

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
// is discarded. go-libvirt drops events without data, such as STOP and RESUME. The bytes of a [qmp.Sensitive]
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
func (t *transport) Listen(ctx context.Context, publish func(qmp.Event)) error {
	defer func() {
		t.cancel()
		for range t.events { // go-libvirt may be about to hand over one more
			continue
		}
	}()
	closing := ctx.Done()
	callback, known, closed := int32(0), false, false
	for !closed || !known {
		select {
		case event, ok := <-t.events:
			if !ok {
				return errEnded
			}
			callback, known = event.CallbackID, true
			if !closed && ctx.Err() == nil {
				publish(parse(event))
			}
		case <-closing:
			closing, closed = nil, true
		case <-t.libvirt.Disconnected():
			return errEnded
		}
	}
	// An error means that the connection is gone, or the subscription is.
	_ = t.libvirt.QEMUConnectDomainMonitorEventDeregister(callback)
	return nil
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
