package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// socket is the transport over a unix or TCP connection. Commands are written by their callers' goroutines,
// under writeLock; one goroutine reads, and hands each reply to the caller that waits for it.
type socket struct {
	session  *session
	conn     net.Conn
	messages *messageReader

	writeLock  chan struct{} // a lock whose wait a context can end
	readerDone chan struct{}
	shut       func() error // closes conn, once

	mu      sync.Mutex
	pending map[uint64]*pendingCall // sent, not answered
	dead    error                   // set with the last wake-up: nothing may be added to pending
}

// pendingCall is a call without its reply.
type pendingCall struct {
	*call
	// secrets are the call's, nil once the caller has left: from then on their owner may wipe them, and
	// they must not be read.
	secrets   [][]byte
	abandoned bool
}

func newSocket(conn net.Conn, s *session) *socket {
	return &socket{
		session:    s,
		conn:       conn,
		messages:   newMessageReader(conn, s.limit),
		writeLock:  make(chan struct{}, 1),
		readerDone: make(chan struct{}),
		pending:    make(map[uint64]*pendingCall),
		shut:       sync.OnceValue(conn.Close),
	}
}

// greet waits for QEMU's greeting. Events may come before it, and so may the reply
// to a client that went away in the middle of a command: QEMU sends it to the next.
func (s *socket) greet(ctx context.Context) (*greeting, error) {
	release := interrupt(ctx, s.conn.SetReadDeadline)
	defer release()
	for {
		text, err := s.messages.next()
		switch {
		case errors.Is(err, ErrMessageTooLarge):
			return nil, fmt.Errorf("the peer does not speak QMP: %w", err)
		case err != nil && ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %s (%w)", ErrNoGreeting, mute(s.conn), ctx.Err())
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%w: the peer ended the connection: it is ending, or no monitor: %s", ErrNoGreeting, useMonitor)
		case err != nil:
			return nil, fmt.Errorf("%w: the connection has failed: %w", ErrNoGreeting, err)
		}
		m, err := parseMessage(text)
		switch {
		case errors.Is(err, ErrProtocol):
			return nil, foreign(text)
		case err != nil:
			return nil, fmt.Errorf("the peer does not speak QMP: %w", err)
		case m.Event != "":
			s.event(m.Event, text)
		case m.Greeting != nil:
			if s.session.trace.on() {
				s.session.trace.entry(Received, bytes.Clone(text))
			}
			return m.Greeting, nil
		}
	}
}

// start begins reading replies and events.
func (s *socket) start() {
	go func() {
		defer close(s.readerDone)
		s.lost(s.read())
	}()
}

// read serves messages until the connection ends, and returns why it did.
func (s *socket) read() error {
	for {
		text, err := s.messages.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("QEMU closed it")
			}
			return err
		}
		m, err := parseMessage(text)
		if err != nil {
			return err
		}
		switch {
		case m.Event != "":
			s.event(m.Event, text)
		case m.Greeting != nil:
			// Nothing to do: QEMU greets once, and we know its version.
		default:
			if err := s.reply(m); err != nil {
				return err
			}
		}
	}
}

// reply delivers m to the caller that waits for it, if it still does.
func (s *socket) reply(m message) error {
	id, numbered := m.callID()
	if !numbered {
		if m.ID == nil && m.Error != nil {
			// QEMU did not understand some command of ours, and cannot say which.
			return fmt.Errorf("%w: QEMU could not read a command: %s", ErrProtocol, m.Error.Description)
		}
		return nil
	}
	s.mu.Lock()
	p := s.pending[id]
	delete(s.pending, id)
	if p != nil {
		m.scrub(p.secrets) // under the lock: see pendingCall
	}
	s.mu.Unlock()
	if s.session.trace.on() {
		s.session.trace.entry(Received, shownReply(p, &m, id))
	}
	if p != nil {
		p.answer <- answer{message: m}
		if s.messages.r.Buffered() == 0 {
			// Let the caller run now. The next read finds no data yet, and its system call would only delay
			// the caller (BenchmarkOverhead).
			runtime.Gosched()
		}
	}
	return nil
}

func shownReply(p *pendingCall, m *message, id uint64) []byte {
	if p != nil && p.abandoned && len(p.call.secrets) > 0 {
		return append(strconv.AppendUint([]byte(`{"late":true,"id":`), id, 10), '}')
	}
	return m.line()
}

func (s *socket) event(name string, text []byte) {
	if s.session.trace.on() {
		s.session.trace.entry(Occurred, bytes.Clone(text))
	}
	if !s.session.hub.wanted(name) {
		return
	}
	var e Event
	if err := json.Unmarshal(text, &e); err != nil {
		// Its data is no object, contrary to the protocol. Its name is still useful.
		e = Event{Event: name}
	}
	s.session.hub.publish(e, len(text))
}

// lost ends the session and wakes all callers that wait for a reply.
func (s *socket) lost(cause error) {
	s.session.fail(fmt.Errorf("%w: %w", ErrConnectionLost, cause))
	_ = s.shut() // close returns its error
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead == nil {
		s.dead = s.session.cause()
	}
	for id, p := range s.pending {
		p.answer <- answer{lost: s.dead}
		delete(s.pending, id)
	}
}

func (s *socket) passesFiles() bool {
	_, ok := s.conn.(*net.UnixConn)
	return ok
}

func (s *socket) close() error {
	err := s.shut()
	<-s.readerDone
	return err
}

// run implements transport.
func (s *socket) run(ctx context.Context, calls []*call, results []Result) {
	sent := s.send(ctx, calls, results)
	for i, c := range calls[:sent] {
		results[i] = s.wait(ctx, c)
	}
}

// send writes the calls and returns how many were sent whole. The results of the others are set.
func (s *socket) send(ctx context.Context, calls []*call, results []Result) int {
	sent, torn, err := s.locked(ctx, calls)
	for i, c := range calls {
		c.wipe()
		if i >= sent && err != nil {
			results[i].Err = notSent(c.name, err)
		}
	}
	if torn {
		results[sent].Err = calls[sent].unknown(err)
	}
	return sent
}

// locked writes the calls under writeLock. Its results are those of write.
func (s *socket) locked(ctx context.Context, calls []*call) (sent int, torn bool, err error) {
	if !s.passesFiles() && slices.ContainsFunc(calls, func(c *call) bool { return c.file != nil }) {
		return 0, false, ErrFileUnsupported
	}
	select {
	case s.writeLock <- struct{}{}:
		defer func() { <-s.writeLock }()
	case <-ctx.Done():
		return 0, false, ctx.Err()
	case <-s.session.ctx.Done():
		return 0, false, s.session.cause()
	}
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if err := s.register(calls); err != nil {
		return 0, false, err
	}
	release := interrupt(ctx, s.conn.SetWriteDeadline)
	sent, torn, err = s.write(calls)
	release()
	switch {
	case err == nil:
		return sent, false, nil
	case errors.Is(err, errFile):
	case ctx.Err() != nil:
		err = ctx.Err()
	case s.session.cause() != nil:
		err = s.session.cause() // explains it better than "use of closed network connection"
	default:
		// The reader notices only in a moment; until then, Done must not claim that
		// the connection is alive.
		err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
		s.session.fail(err)
	}
	s.unregister(calls[sent:])
	if torn {
		s.session.fail(fmt.Errorf("%w: %s could only be written in part, which spoils the stream: %w",
			ErrConnectionLost, calls[sent].name, err))
		_ = s.shut() // the reader notices, and wakes the others
	}
	return sent, torn, err
}

func (s *socket) register(calls []*call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return s.dead
	}
	if err := s.session.cause(); err != nil {
		return err
	}
	for _, c := range calls {
		s.pending[c.id] = &pendingCall{call: c, secrets: c.secrets}
	}
	return nil
}

func (s *socket) unregister(calls []*call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range calls {
		delete(s.pending, c.id)
	}
}

// wait returns the reply to c, or the reason why there is none.
func (s *socket) wait(ctx context.Context, c *call) Result {
	select {
	case a := <-c.answer:
		return c.result(a)
	default: // prefer a reply that is there to a context that has ended
	}
	select {
	case a := <-c.answer:
		return c.result(a)
	case <-ctx.Done():
	}
	s.mu.Lock()
	p, waiting := s.pending[c.id]
	if waiting {
		p.abandoned, p.secrets = true, nil
	}
	s.mu.Unlock()
	if !waiting {
		return c.result(<-c.answer) // it has just been taken out, to be delivered
	}
	return Result{Err: c.unknown(ctx.Err())}
}

// interrupt makes the end of ctx abort a read or write that setDeadline governs. The returned function must
// be called when that is over; it leaves no deadline behind.
func interrupt(ctx context.Context, setDeadline func(time.Time) error) (release func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		// Fails only on a closed connection, where reads and writes end anyway.
		_ = setDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-fired
			_ = setDeadline(time.Time{}) // as above
		}
	}
}
