package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Transport carries commands to QEMU over a connection that is not QMP's own, one at a time. Packages
// qmplibvirt and goqemu each have one. The [Client] above it adds the ids, the trace, redaction,
// subscriptions, and contexts that end while Run works.
type Transport interface {
	// Run passes one command to QEMU and returns its reply; both are one JSON object. No other call of Run is
	// made meanwhile. command may hold a secret, and is overwritten when Run has returned: do not keep it.
	//
	// file is nil unless PassesFiles reports true. It goes to QEMU together with
	// command, which then holds no secret. It is closed when Run has returned.
	//
	// ctx ends when the caller no longer waits for the reply. A Run that cannot be
	// interrupted may ignore that: the client does not wait for it, and discards its
	// reply. Commands that follow are held up until it returns.
	//
	// If QEMU did not get the command, the error wraps ErrNotSent. If QEMU refused it, the reply says so, or
	// the error is an *Error, whose Command the client sets. With any other error the command's outcome is
	// unknown.
	Run(ctx context.Context, command []byte, file *os.File) (reply []byte, err error)
	// PassesFiles reports whether Run takes a file.
	PassesFiles() bool
	// Listen calls publish for each event of QEMU's, in order. It returns nil some time
	// after ctx has ended, or why the connection has ended before. It is called once. publish
	// may wait for the trace; a transport whose events may pile up meanwhile has to bound them.
	Listen(ctx context.Context, publish func(Event)) error
	// Close ends the connection. It is called once, and before Listen's ctx ends.
	Close() error
}

// WithoutIDs makes a client of [NewClient] send commands without an id, for a transport
// that adds one itself and refuses a second, as libvirt does. Other clients ignore it.
func WithoutIDs() Option { return func(o *options) { o.ids = noID } }

// WithAddress says how a client of [NewClient] names its monitor in [SchemaID]. It must
// be the same name for all programs that can reach the monitor. Other clients ignore it.
func WithAddress(address string) Option { return func(o *options) { o.address = address } }

// NewClient makes a client that reaches QEMU through t, which must be connected. The
// transport is the client's from then on: Close closes it, as does NewClient if it fails.
// ctx bounds this call alone, which queries QEMU's version.
func NewClient(ctx context.Context, t Transport, opts ...Option) (*Client, error) {
	o := newOptions(stringID, opts)
	s := newSession(o)
	c := newClient(s, newSerial(s, t), o)
	c.address = o.address
	if err := c.queryVersion(ctx); err != nil {
		_ = c.Close() // the first error counts
		return nil, err
	}
	return c, nil
}

// serial passes calls to a Transport, one at a time.
type serial struct {
	session   *session
	transport Transport

	lock      chan struct{} // held while Run runs, also after its caller has left
	closeOnce func() error
}

func newSerial(s *session, t Transport) *serial {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		if err := t.Listen(ctx, s.parsedEvent); err != nil {
			s.fail(fmt.Errorf("%w: %w", ErrConnectionLost, err))
		}
	}()
	return &serial{session: s, transport: t, lock: make(chan struct{}, 1), closeOnce: sync.OnceValue(func() error {
		defer stop()
		return t.Close()
	})}
}

func (t *serial) close() error { return t.closeOnce() }

func (t *serial) passesFiles() bool { return t.transport.PassesFiles() }

// run implements dispatcher.
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
	case c.file != nil && !t.passesFiles():
		return refused(ErrFileUnsupported)
	case c.file != nil && len(c.secrets) > 0:
		return refused(ErrFileWithSecret)
	}
	select {
	case t.lock <- struct{}{}:
	case <-ctx.Done():
		return refused(ctx.Err())
	case <-t.session.ctx.Done():
		return refused(t.session.cause())
	}
	cause := errors.Join(ctx.Err(), t.session.cause())
	var file *os.File
	if cause == nil && c.file != nil {
		file, cause = duplicate(c.file)
	}
	if cause != nil {
		<-t.lock
		return refused(cause)
	}
	if c.shown != nil {
		t.session.trace.entry(Sent, c.shown)
	}
	type rawAnswer struct {
		text []byte
		err  error
	}
	done := make(chan rawAnswer, 1)
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		text, err := t.transport.Run(runCtx, c.wire[:len(c.wire)-1], file)
		if file != nil {
			_ = file.Close() // a copy: the file itself is its owner's
		}
		c.wipe()
		<-t.lock
		done <- rawAnswer{text, err}
	}()
	select {
	case raw := <-done:
		return t.answered(c, raw.text, raw.err)
	case <-ctx.Done():
		return Result{Err: c.unknown(ctx.Err())}
	case <-t.session.ctx.Done():
	}
	select { // the answer may have come together with the end
	case raw := <-done:
		return t.answered(c, raw.text, raw.err)
	default:
		return Result{Err: c.unknown(t.session.cause())}
	}
}

// answered interprets what Run returned.
func (t *serial) answered(c *call, text []byte, err error) Result {
	var refusal *Error
	switch {
	case errors.Is(err, ErrNotSent):
		return Result{Err: notSent(c.name, err)}
	case errors.As(err, &refusal):
		return Result{Err: &Error{Command: c.name, Class: refusal.Class, Description: refusal.Description}}
	case err != nil:
		return Result{Err: c.unknown(err)}
	}
	m, err := t.parse(text)
	if err == nil && m.Return == nil && m.Error == nil {
		err = fmt.Errorf("%w: the monitor returned no reply", ErrProtocol)
	}
	if err != nil {
		return Result{Err: c.unknown(err)}
	}
	// libvirt's replies carry libvirt's own ids.
	if id, numbered := m.callID(); numbered && id != c.id {
		// From here on every reply would be that of the command before.
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

// parse decodes a reply. A transport has read all of it already, but it is not decoded beyond the bounds.
func (t *serial) parse(text []byte) (message, error) {
	var m message
	err := oneMessage(text, t.session.limit)
	if err == nil {
		m, err = parseMessage(text)
	}
	if errors.Is(err, ErrMessageTooLarge) {
		t.session.fail(fmt.Errorf("%w: %w", ErrConnectionLost, err))
	}
	return m, err
}

// scrubbedResult returns an error of the same kind with a scrubbed text.
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

// parsedEvent takes an event that a Transport has parsed.
func (s *session) parsedEvent(e Event) {
	if s.trace.on() {
		if line, err := json.Marshal(e); err == nil { // it has been parsed from JSON
			s.trace.entry(Occurred, line)
		}
	}
	s.hub.publish(e, sizeOf(e.Data))
}

// duplicate gives a transport its own descriptor: it may still use it when its caller, whose context has
// ended, closes the file, and the kernel would reuse the number for another file.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
