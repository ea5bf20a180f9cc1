package qmp

import "sync"

// session is what a client and its transport share for the life of the connection.
type session struct {
	trace *tracer
	hub   hub
	done  chan struct{} // closed when err is set

	mu  sync.Mutex
	err error // why the connection ended; nil while it is alive
}

func newSession(o options) *session {
	s := &session{done: make(chan struct{})}
	if o.trace != nil {
		s.trace = &tracer{fn: o.trace}
	}
	return s
}

// fail ends the session with its cause; only the first cause counts.
func (s *session) fail(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = cause
	close(s.done)
	s.hub.end()
}

// cause returns why the session ended, or nil.
func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
