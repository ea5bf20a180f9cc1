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

// The exit statuses that mean something.
const (
	statusNotFound = 2
	statusDenied   = 3
	statusLocked   = 4
)

// Options are the circumstances of the program. The zero value is of use.
type Options struct {
	// Timeout bounds each look-up; 0 for 30 seconds.
	Timeout time.Duration
	// Stderr is where the program's messages go; nil for nowhere.
	Stderr io.Writer
}

// Store is a [secrets.Store] that asks a program. Make one with [New].
type Store struct {
	command string
	program program.Program
}

// New returns the store of a command, which [Split] takes apart. Whether there is
// such a program is seen by the first look-up.
func New(command string, o Options) (*Store, error) {
	args, err := Split(command)
	if err != nil {
		return nil, err
	}
	const enough = 30 * time.Second // a server, and a TPM, take their time
	if o.Timeout == 0 {
		o.Timeout = enough
	}
	return &Store{command, program.Program{Args: args, Timeout: o.Timeout, Stderr: o.Stderr}}, nil
}

// String returns "exec:" and the command, percent-encoded where a URI needs that.
func (s *Store) String() string { return "exec:" + escaped(s.command) }

// escaped is legible: only what would end the command is encoded.
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
		return nil, fmt.Errorf("%w: the program has written nothing, with status 0", secrets.ErrNoValue)
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
