package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/program"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// The exit statuses that the package comment documents.
const (
	statusNotFound = 2
	statusDenied   = 3
	statusLocked   = 4
)

// Options configure the runs of the program. The zero value is valid.
type Options struct {
	// Timeout limits each look-up; 0 means 30 seconds.
	Timeout time.Duration
	// Stderr receives the program's messages; nil discards them.
	Stderr io.Writer
}

// Store is a [secrets.Store] that runs a program. Create it with [New].
type Store struct {
	command string
	program program.Program
}

// New returns the store of a command, which [Split] parses. It does not check that
// the program exists; Lookup does.
func New(command string, o Options) (*Store, error) {
	args, err := Split(command)
	if err != nil {
		return nil, err
	}
	const enough = 30 * time.Second // servers and TPMs are slow
	if o.Timeout == 0 {
		o.Timeout = enough
	}
	return &Store{command, program.Program{Args: args, Timeout: o.Timeout, Stderr: o.Stderr}}, nil
}

// String returns "exec:" and the command, percent-encoded as a URI requires.
func (s *Store) String() string { return "exec:" + escaped(s.command) }

// escaped keeps the command readable: it encodes only %, ?, # and control characters.
func escaped(command string) string {
	var out []byte
	for _, c := range []byte(command) {
		if c == '%' || c == '?' || c == '#' || c < ' ' {
			out = append(out, url.PathEscape(string(rune(c)))...)
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// Lookup implements [secrets.Store]: it runs the program and waits for its end.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	value, err := s.lookup(ctx, ref)
	return value, storecall.Fail(s, ref, err)
}

func (s *Store) lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	id := ""
	if ref.UUID != uuid.Nil {
		id = ref.UUID.String()
	}
	run := s.program
	run.Env = []string{"LUKSPLUG_SECRET_TYPE=" + string(ref.Type), "LUKSPLUG_SECRET_UUID=" + id, "LUKSPLUG_SECRET_USAGE=" + ref.Usage}
	value, err := run.Run(ctx)
	var exit *program.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%w: %w", answer(exit.Status), err)
	case err != nil:
		return nil, err
	case value.Len() == 0:
		return nil, fmt.Errorf("%w: the program wrote nothing and exited with status 0", secrets.ErrNoValue)
	}
	return value, nil
}

func answer(status int) error {
	switch status {
	case statusNotFound:
		return secrets.ErrNotFound
	case statusDenied:
		return secrets.ErrDenied
	case statusLocked:
		return secrets.ErrLocked
	}
	return secrets.ErrUnreachable
}
