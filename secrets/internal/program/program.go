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

	"github.com/luksplug/luksplug/secrets"
)

// Program is a program with its arguments.
type Program struct {
	// Args are the program, a path or a name in PATH, and its arguments.
	// Everybody on the host can see them.
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Timeout ends the program when it takes longer.
	Timeout time.Duration
	// Stderr is where its messages go; nil for nowhere.
	Stderr io.Writer
}

// ExitError says that the program ended with a status other than 0.
type ExitError struct {
	Program string
	Status  int
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended with status %d (its messages are on standard error)", e.Program, e.Status)
}

// patience is how long the program's own children may hold its output open when
// it has ended itself.
const patience = time.Second

// Run runs the program and returns what it writes to standard output, exactly.
// The error wraps ctx.Err(); secrets.ErrUnreachable for a program that is not
// there, takes too long, is ended by a signal, or writes more than
// secrets.MaxLen; secrets.ErrDenied for one that may not be run; or is an
// [*ExitError]. The program's process group is ended with it: what it has
// started must not outlive the call.
func (p *Program) Run(ctx context.Context) (*secrets.Secret, error) {
	bounded, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	cmd := exec.CommandContext(bounded, p.Args[0], p.Args[1:]...)
	cmd.Env = append(os.Environ(), p.Env...) // the later ones win
	cmd.Stderr = p.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// Not cmd.Stdout: its copy would pass through memory that is not wiped,
	// and not StdoutPipe: Wait would close it under our hands.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	defer func() { _ = out.Close() }() // only read
	cmd.Stdout = in
	err = cmd.Start()
	_ = in.Close() // the child has its own copy
	if err != nil {
		return nil, p.cannotStart(ctx, err)
	}
	value, readErr := read(bounded, out)
	if readErr != nil {
		cancel() // a program that writes without an end would wait for us
	}
	waitErr := cmd.Wait()
	if errors.Is(waitErr, exec.ErrWaitDelay) {
		waitErr = nil // a child that it has left keeps the messages' end open; the value is all there
	}
	if err := p.outcome(ctx, bounded, readErr, waitErr); err != nil {
		value.Wipe()
		return nil, err
	}
	return value, nil
}

// read reads to the end, or until ctx ends.
func read(ctx context.Context, out *os.File) (*secrets.Secret, error) {
	// A child of the program may hold the pipe open although the program was
	// ended.
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

// outcome returns the error of a run, if it failed. The reason for which the
// program was killed takes precedence over its exit status.
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
