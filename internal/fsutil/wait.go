package fsutil

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Waiting returns a reader of f that waits for bytes, such as those of a pipe or terminal,
// no longer than until ctx ends. Its error is then a [*WaitError].
func Waiting(ctx context.Context, f *os.File) io.Reader { return waiting{ctx, f} }

// WaitError reports that ctx has ended before there was more to read.
type WaitError struct {
	Err error // that of the context
}

// Error implements error.
func (e *WaitError) Error() string {
	if errors.Is(e.Err, context.DeadlineExceeded) {
		return "the time limit ended while input was waited for"
	}
	return "interrupted while input was waited for"
}

// Unwrap returns e.Err.
func (e *WaitError) Unwrap() error { return e.Err }

// waitPoll is how long one wait lasts: a context cannot interrupt it.
const waitPoll = 50 * time.Millisecond

// WaitReadable waits until there is something to read, or the end of it, from a descriptor.
// A pipe without a writer is not readable until it has had one.
func WaitReadable(ctx context.Context, fd int) error {
	for {
		if err := ctx.Err(); err != nil {
			return &WaitError{err}
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(waitPoll.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case ready > 0:
			return nil
		}
	}
}

type waiting struct {
	ctx context.Context
	f   *os.File
}

// Read implements [io.Reader].
func (w waiting) Read(b []byte) (int, error) {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = WaitReadable(w.ctx, int(fd)) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return w.f.Read(b)
}
