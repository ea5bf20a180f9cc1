package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// serial is the transport over somebody else's blocking call that takes one
// command and returns its reply: go-qemu's Monitor.Run, libvirt's monitor
// command. It runs one command at a time.
type serial struct {
	session *session
	runRaw  func(command []byte) ([]byte, error)
	release func() error // ends what lies below
	// passFile runs the commands that have a file; nil: nothing can.
	passFile FilePasser

	lock      chan struct{} // held while runRaw runs, also after its caller has left
	closeOnce sync.Once
	closeErr  error
}

func newSerial(s *session, run func([]byte) ([]byte, error), release func() error) *serial {
	return &serial{session: s, runRaw: run, release: release, lock: make(chan struct{}, 1)}
}

func (t *serial) close() error {
	t.closeOnce.Do(func() { t.closeErr = t.release() })
	return t.closeErr
}

func (t *serial) passesFiles() bool { return t.passFile != nil }

// run implements transport.
func (t *serial) run(ctx context.Context, calls []*call, results []Result) {
	for i, c := range calls {
		results[i] = t.one(ctx, c)
		results[i].Err = scrubbedResult(results[i].Err, c.secrets)
	}
}

// one runs a single call.
func (t *serial) one(ctx context.Context, c *call) Result {
	refused := func(cause error) Result {
		c.wipe()
		return Result{Err: notSent(c.name, cause)}
	}
	switch {
	case c.file != nil && t.passFile == nil:
		return refused(ErrFileUnsupported)
	case c.file != nil && len(c.secrets) > 0:
		return refused(ErrFileWithSecret)
	}
	select {
	case t.lock <- struct{}{}:
	case <-ctx.Done():
		return refused(ctx.Err())
	case <-t.session.done:
		return refused(t.session.cause())
	}
	if cause := errors.Join(ctx.Err(), t.session.cause()); cause != nil {
		<-t.lock
		return refused(cause)
	}
	run, stop, err := t.runner(ctx, c)
	if err != nil {
		<-t.lock
		return refused(err)
	}
	defer stop()
	if c.shown != nil {
		t.session.trace.entry(Sent, c.shown)
	}
	type rawAnswer struct {
		text []byte
		err  error
	}
	done := make(chan rawAnswer, 1)
	go func() {
		text, err := run(c.wire[:len(c.wire)-1])
		c.wipe()
		<-t.lock
		done <- rawAnswer{text, err}
	}()
	select {
	case raw := <-done:
		return t.answered(c, raw.text, raw.err)
	case <-ctx.Done():
		return Result{Err: c.unknown(ctx.Err())}
	case <-t.session.done:
	}
	select { // the answer may have come together with the end
	case raw := <-done:
		return t.answered(c, raw.text, raw.err)
	default:
		return Result{Err: c.unknown(t.session.cause())}
	}
}

// answered interprets what runRaw returned.
func (t *serial) answered(c *call, text []byte, err error) Result {
	if err != nil {
		return Result{Err: foreignError(c, err)}
	}
	m, err := parseMessage(text)
	if err == nil && m.Return == nil && m.Error == nil {
		err = fmt.Errorf("%w: the monitor returned no reply", ErrProtocol)
	}
	if err != nil {
		return Result{Err: c.unknown(err)}
	}
	// libvirt's replies carry libvirt's own ids.
	if id, numbered := m.callID(); numbered && id != c.id {
		// From here on every reply would be its predecessor's.
		cause := fmt.Errorf("%w: the monitor gave the reply to command %d for command %d", ErrProtocol, id, c.id)
		t.session.fail(fmt.Errorf("%w: %w", ErrConnectionLost, cause))
		return Result{Err: c.unknown(cause)}
	}
	m.scrub(c.secrets)
	if t.session.trace.on() {
		t.session.trace.entry(Received, m.line())
	}
	return c.result(answer{message: m})
}

// foreignError interprets an error of go-qemu or go-libvirt.
func foreignError(c *call, err error) error {
	var fromLibvirt libvirt.Error
	switch {
	case c.file != nil: // a FilePasser's
		if errors.Is(err, ErrNotSent) {
			return notSent(c.name, err)
		}
		return c.unknown(err)
	case errors.As(err, &fromLibvirt):
		if libvirtRefused(fromLibvirt) {
			return notSent(c.name, err)
		}
		return c.unknown(err)
	case errors.Is(err, libvirt.ErrUnsupported):
		return notSent(c.name, err)
	case isPlain(err):
		return &Error{Command: c.name, Class: genericError, Description: err.Error()}
	}
	return c.unknown(err)
}

// isPlain says whether err is one that go-qemu or go-libvirt made, by
// errors.New, of the description in QEMU's reply. The well-known errors below
// were made the same way, but have another meaning.
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

// scrubbedResult scrubs an error of everything but its kind.
func scrubbedResult(err error, secrets [][]byte) error {
	if len(secrets) == 0 || err == nil {
		return err
	}
	var refused *Error
	var unknown *UnknownOutcomeError
	switch {
	case errors.As(err, &unknown):
		unknown.Err = scrubError(unknown.Err, secrets)
		return unknown
	case errors.As(err, &refused):
		refused.Description = string(scrubText([]byte(refused.Description), secrets))
		return refused
	}
	return scrubError(err, secrets)
}

// foreignEvent takes an event that go-qemu or go-libvirt has already parsed.
func (s *session) foreignEvent(e Event) {
	if s.trace.on() {
		if line, err := json.Marshal(e); err == nil { // it has been parsed from JSON
			s.trace.entry(Occurred, line)
		}
	}
	s.hub.publish(e)
}
