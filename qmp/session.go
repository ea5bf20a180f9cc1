package qmp

import "context"

// session is what a client and its transport share for the life of the connection.
type session struct {
	trace *tracer
	limit int // bytes of one message
	hub   hub
	ctx   context.Context // its end is that of the connection
	end   context.CancelCauseFunc
}

func newSession(o options) *session {
	s := &session{limit: o.limit}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	if o.trace != nil {
		s.trace = &tracer{fn: o.trace}
	}
	return s
}

// fail ends the session with its cause; only the first cause counts.
func (s *session) fail(cause error) {
	s.end(cause)
	s.hub.end(s.cause())
}

// cause returns why the session ended, or nil.
func (s *session) cause() error { return context.Cause(s.ctx) }
