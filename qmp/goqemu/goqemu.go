// Package goqemu makes a [qmp.Client] of a monitor of digitalocean/go-qemu, for programs
// that have one already:
//
//	client, err := goqemu.NewClient(ctx, monitor)
//
// For a socket, [qmp.Dial] is the better choice, see [NewClient].
package goqemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"time"

	"github.com/digitalocean/go-libvirt"
	goqemu "github.com/digitalocean/go-qemu/qmp"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/internal/libvirterr"
)

// closeWait bounds how long Close waits for the monitor to disconnect: go-qemu's and go-libvirt's calls have
// neither context nor deadline.
const closeWait = 5 * time.Second

// NewClient makes a client of any monitor of go-qemu. The client owns the monitor from then on: it reads its
// Events, and Close calls Disconnect, as does NewClient itself if it fails.
//
// The monitor must be connected, except that NewClient connects a SocketMonitor which is
// not. ctx bounds this call alone.
//
// A custom monitor that goes through libvirt needs [qmp.WithoutIDs]; go-qemu's
// LibvirtRPCMonitor is recognised.
//
// A Monitor runs one command at a time and cannot be interrupted: when a caller's context ends, the reply is
// discarded when it comes, and later commands wait for it. SocketMonitor breaks on replies over 64 KiB (so
// Schema fails), and passes no error class: its refusals, errors made by errors.New, become a [*qmp.Error] of
// class GenericError, every other error of Run means that the outcome is unknown. Files cannot be passed. If
// the monitor has no events, subscriptions stay silent.
func NewClient(ctx context.Context, m goqemu.Monitor, opts ...qmp.Option) (*qmp.Client, error) {
	if _, ok := m.(*goqemu.LibvirtRPCMonitor); ok {
		opts = append(opts[:len(opts):len(opts)], qmp.WithoutIDs())
	}
	t := &transport{monitor: m}
	// Connect sets Version, and would wait for ever if it were called again.
	if s, ok := m.(*goqemu.SocketMonitor); ok && s.Version == nil {
		if err := within(ctx, m.Connect); err != nil {
			_ = t.Close() // the first error counts
			return nil, fmt.Errorf("cannot connect the QMP monitor (does another client hold it?): %w", err)
		}
	}
	eventsCtx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	events, err := m.Events(eventsCtx)
	switch {
	case errors.Is(err, goqemu.ErrEventsNotSupported):
	case err != nil:
		_ = t.Close() // the first error counts
		return nil, fmt.Errorf("cannot receive events from the QMP monitor: %w", err)
	default:
		t.events = events
	}
	return qmp.NewClient(ctx, t, opts...)
}

// transport is a monitor of go-qemu. It implements [qmp.Transport].
type transport struct {
	monitor goqemu.Monitor
	events  <-chan goqemu.Event // nil: the monitor has none
	cancel  context.CancelFunc  // ends the events; nil: there is no subscription yet
}

func (t *transport) Run(_ context.Context, command []byte, _ *os.File) ([]byte, error) {
	reply, err := t.monitor.Run(command)
	if err = libvirterr.Mark(err); isPlain(err) {
		err = &qmp.Error{Class: "GenericError", Description: err.Error()}
	}
	return reply, err
}

func (t *transport) PassesFiles() bool { return false }

// Listen implements [qmp.Transport]. The end of the channel is the only sign that go-qemu
// gives of a lost connection. SocketMonitor.Disconnect waits until every event is read.
func (t *transport) Listen(ctx context.Context, publish func(qmp.Event)) error {
	for {
		select {
		case e, ok := <-t.events:
			if !ok {
				return errors.New("the monitor's events ended")
			}
			publish(qmp.Event(e))
		case <-ctx.Done():
			return nil
		}
	}
}

func (t *transport) Close() error {
	if t.cancel != nil {
		t.cancel()
	}
	ctx, cancel := ending.After(context.Background(), closeWait)
	defer cancel()
	return within(ctx, t.monitor.Disconnect)
}

// isPlain reports whether go-qemu or go-libvirt made err, by errors.New, from the description in
// QEMU's reply. The well-known errors below were made the same way, but have another meaning.
func isPlain(err error) bool {
	for _, known := range []error{
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, bufio.ErrTooLong,
		libvirt.ErrInterrupted, context.Canceled,
	} {
		if errors.Is(err, known) {
			return false
		}
	}
	return reflect.TypeOf(err) == reflect.TypeOf(errors.New(""))
}

// within calls f, and does not wait for it any longer if ctx ends first.
func within(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
