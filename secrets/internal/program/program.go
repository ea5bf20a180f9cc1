package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/secrets"
)

// Program is a program with its arguments.
type Program struct {
	// Args are the program, a path or a name in PATH, and its arguments.
	// All users of the host can see them.
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Timeout is the time after which the program is killed.
	Timeout time.Duration
	// Input is the program's standard input; nil means none. Run does not wipe it.
	Input *secrets.Secret
	// Stderr receives the program's standard error; nil discards it.
	Stderr io.Writer
}

// ExitError is the error of a program that ended with a status other than 0.
type ExitError struct {
	Program string
	Status  int
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended with status %d (its messages are on standard error)", e.Program, e.Status)
}

// patience is how long children of the program may keep its output open after
// the program has ended.
const patience = time.Second

// Run runs the program and returns its standard output unmodified. The error wraps
// ctx.Err(); secrets.ErrUnreachable if the program does not exist, takes too long,
// is ended by a signal, or writes more than secrets.MaxLen; secrets.ErrDenied if it
// may not be executed; or is an [*ExitError]. On timeout or cancellation the whole
// process group is killed: processes that the program has started must not outlive
// the call.
func (p *Program) Run(ctx context.Context) (*secrets.Secret, error) {
	bounded, cancel := ending.After(ctx, p.Timeout)
	defer cancel()
	cmd := exec.CommandContext(bounded, p.Args[0], p.Args[1:]...)
	cmd.Env = append(os.Environ(), p.Env...) // later entries override earlier ones
	cmd.Stderr = p.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// Not cmd.Stdout, which copies through memory that is not wiped, and not
	// StdoutPipe, which Wait closes while it is still being read.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	defer func() { _ = out.Close() }() // only read
	cmd.Stdout = in
	feed, err := p.input(cmd)
	if err != nil {
		_ = in.Close() // nothing was written
		return nil, fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	err = cmd.Start()
	_ = in.Close() // the child has a duplicate
	fed := feed(bounded, err == nil)
	if err != nil {
		return nil, p.cannotStart(ctx, err)
	}
	value, readErr := read(bounded, out)
	if readErr != nil {
		cancel() // a program that still writes would block on the full pipe
	}
	waitErr := cmd.Wait()
	<-fed
	if errors.Is(waitErr, exec.ErrWaitDelay) {
		waitErr = nil // a remaining child keeps standard error open, but the value is complete
	}
	if err := p.outcome(ctx, bounded, readErr, waitErr); err != nil {
		value.Wipe()
		return nil, err
	}
	return value, nil
}

// input connects the program's standard input. The caller calls feed once the program has
// started or failed to; it writes the input meanwhile, and closes fed when it has ended.
func (p *Program) input(cmd *exec.Cmd) (feed func(ctx context.Context, started bool) (fed <-chan struct{}), err error) {
	done := make(chan struct{})
	if p.Input == nil {
		return func(context.Context, bool) <-chan struct{} { close(done); return done }, nil
	}
	// Not cmd.Stdin with a reader, which copies through memory that is not wiped.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin = out
	return func(ctx context.Context, started bool) <-chan struct{} {
		_ = out.Close() // the child has a duplicate
		go func() {
			defer close(done)
			defer func() { _ = in.Close() }() // the program sees the end of its input
			if started {
				stop := context.AfterFunc(ctx, func() { _ = in.SetWriteDeadline(time.Now()) })
				defer stop()
				// A program that does not read all of its input has reasons that its status tells.
				_ = p.Input.Use(func(b []byte) error { _, err := in.Write(b); return err })
			}
		}()
		return done
	}, nil
}

// read reads out to its end, or until ctx ends.
func read(ctx context.Context, out *os.File) (*secrets.Secret, error) {
	// A child of the program may keep the pipe open after the program was
	// killed.
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Now()) })
	defer stop()
	return secrets.Read(out)
}

func (p *Program) cannotStart(ctx context.Context, err error) error {
	answer := secrets.ErrUnreachable
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrPermission):
		answer = secrets.ErrDenied
	}
	return fmt.Errorf("%w: %w", answer, err)
}

// outcome returns the error of a run, or nil. The reason why the program was
// killed takes precedence over its exit status.
func (p *Program) outcome(ctx, bounded context.Context, readErr, waitErr error) error {
	var exit *exec.ExitError
	ended := errors.As(waitErr, &exit) && exit.Exited()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s was ended: %w", p.Args[0], ctx.Err())
	case errors.Is(readErr, secrets.ErrTooLong):
		return fmt.Errorf("%w: %s: %w", secrets.ErrUnreachable, p.Args[0], readErr)
	case errors.Is(bounded.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: %s has not ended after %s", secrets.ErrUnreachable, p.Args[0], p.Timeout)
	case ended:
		return &ExitError{p.Args[0], exit.ExitCode()}
	case waitErr != nil: // a signal
		return fmt.Errorf("%w: %s: %w", secrets.ErrUnreachable, p.Args[0], waitErr)
	case readErr != nil:
		return fmt.Errorf("%w: read from %s: %w", secrets.ErrUnreachable, p.Args[0], readErr)
	}
	return nil
}
