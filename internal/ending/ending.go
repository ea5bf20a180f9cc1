// Package ending makes contexts whose errors say in words why they ended: package context
// says "context deadline exceeded" and "context canceled", which users cannot act on.
//
// The error of such a context, and of every context below it, is an [*Error]. errors.Is
// finds [context.DeadlineExceeded] or [context.Canceled] in it, so that callers need not
// know this package.
package ending

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Error tells why a context ended.
type Error struct {
	// Limit is the time limit that has passed, 0 if the context was interrupted.
	Limit time.Duration
}

// Error implements error.
func (e *Error) Error() string {
	if e.Limit == 0 {
		return "interrupted"
	}
	return fmt.Sprintf("the time limit of %s has passed", e.Limit)
}

// Unwrap returns the error of package context.
func (e *Error) Unwrap() error {
	if e.Limit == 0 {
		return context.Canceled
	}
	return context.DeadlineExceeded
}

// Timeout reports whether a time limit has passed, as that of [context.DeadlineExceeded] does.
func (e *Error) Timeout() bool { return e.Limit != 0 }

// After is [context.WithTimeout]. Once the limit has passed, the context's error is an
// [*Error] with it. If parent ends before, its error is that of parent.
func After(parent context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(parent, limit, &Error{Limit: max(limit, 1)})
	return worded(ctx), cancel
}

// WithInterrupt returns a context that interrupt ends, with an [*Error].
func WithInterrupt(parent context.Context) (ctx context.Context, interrupt func()) {
	ctx, cancel := context.WithCancelCause(parent)
	return worded(ctx), func() { cancel(&Error{}) }
}

// reasoned is a context whose error is its cause, if that is an [*Error].
type reasoned struct {
	context.Context
	// done differs from that of the context within: package context would otherwise take
	// the errors of the contexts below from there.
	done chan struct{}
}

func worded(ctx context.Context) context.Context {
	c := &reasoned{ctx, make(chan struct{})}
	context.AfterFunc(ctx, func() { close(c.done) })
	return c
}

// Done implements [context.Context].
func (c *reasoned) Done() <-chan struct{} { return c.done }

// Err implements [context.Context]. As there, it is nil until Done is closed.
func (c *reasoned) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	var why *Error
	if errors.As(context.Cause(c.Context), &why) {
		return why
	}
	return c.Context.Err()
}

// AfterFunc spares package context a goroutine for each context below this one.
func (c *reasoned) AfterFunc(f func()) (stop func() bool) {
	return context.AfterFunc(c.Context, func() {
		<-c.done // so that Err is not nil
		f()
	})
}
