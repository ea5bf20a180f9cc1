// Package monitor keeps a QMP connection to a VM: it dials again if the connection is
// lost during an operation, and repeats commands that may be repeated.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/qapi"
	"github.com/luksplug/luksplug/qmp"
)

// A Querier runs commands that change nothing. [Conn] queries a VM, and a storage
// daemon's target in package apply queries the daemon.
type Querier interface {
	// Query sends the commands at once and returns their values in the same order, or the
	// first error.
	Query(ctx context.Context, commands ...qmp.Command) ([]json.RawMessage, error)
	// QueryEach sends the commands at once and returns each command's own result.
	QueryEach(ctx context.Context, commands ...qmp.Command) []qmp.Result
}

// Dialer opens a monitor connection to the VM. It is called again after a lost
// connection, and must then reach the same VM.
type Dialer func(ctx context.Context) (*qmp.Client, error)

// Conn is a connection to one VM. It is not safe for concurrent use.
type Conn struct {
	dial   Dialer
	client *qmp.Client
	log    logrus.FieldLogger
}

// Dial opens the connection. The caller closes it.
func Dial(ctx context.Context, dial Dialer, log logrus.FieldLogger) (*Conn, error) {
	client, err := dial(ctx)
	if err != nil {
		return nil, err // names the monitor
	}
	return &Conn{dial: dial, client: client, log: log}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.client.Close() }

// Client returns the connection in use. It changes when a lost connection is dialled
// again.
func (c *Conn) Client() *qmp.Client { return c.client }

// redial bounds the attempts to reopen a lost connection. A live monitor accepts a new
// connection at once, and a libvirtd that restarts needs a second or two; otherwise the
// user should get the error soon.
const redial = 5 * time.Second

// ErrGone reports that the connection is lost and could not be opened again.
var ErrGone = errors.New("the monitor connection is lost and cannot be opened again")

// Reconnect dials again if the connection is lost. The error wraps [ErrGone].
func (c *Conn) Reconnect(ctx context.Context) error {
	select {
	case <-c.client.Done():
	default:
		return nil
	}
	ctx, cancel := ending.After(ctx, redial)
	defer cancel()
	const first, longest = 20 * time.Millisecond, time.Second
	for wait := first; ; wait = min(2*wait, longest) {
		client, err := c.dial(ctx)
		if err == nil {
			_ = c.client.Close() // lost already: only its resources are released
			c.client = client
			c.log.Warn("the monitor connection was lost and has been opened again")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrGone, err)
		case <-time.After(wait):
		}
	}
}

// Execute sends one command, once. If no answer comes, the error wraps
// [qmp.UnknownOutcomeError].
func (c *Conn) Execute(ctx context.Context, cmd qmp.Command) (json.RawMessage, error) {
	return c.client.Execute(ctx, cmd)
}

// Query implements [Querier]. It reopens a lost connection once: repeating a query does
// no harm. A time-out is an [*outcome.NoAnswerError].
func (c *Conn) Query(ctx context.Context, commands ...qmp.Command) ([]json.RawMessage, error) {
	for attempt := 0; ; attempt++ {
		values, failed := Values(c.client.ExecuteAll(ctx, commands...))
		if failed == nil {
			return values, nil
		}
		if errors.Is(failed, context.DeadlineExceeded) {
			return nil, &outcome.NoAnswerError{Err: failed}
		}
		if attempt > 0 || ctx.Err() != nil || !Lost(failed) {
			return nil, failed
		}
		if err := c.Reconnect(ctx); err != nil {
			return nil, err
		}
	}
}

// QueryEach implements [Querier]. It does not reopen a lost connection.
func (c *Conn) QueryEach(ctx context.Context, commands ...qmp.Command) []qmp.Result {
	return c.client.ExecuteAll(ctx, commands...)
}

// Repeat runs a command that removes something until QEMU answers: it sends the command
// again if no answer came, and treats gone, QEMU's error for a missing object, as
// success.
func (c *Conn) Repeat(ctx context.Context, cmd qmp.Command, gone error) error {
	for {
		_, err := c.client.Execute(ctx, cmd)
		var unknown *qmp.UnknownOutcomeError
		switch {
		case err == nil, errors.Is(err, gone):
			return nil
		case ctx.Err() != nil:
			return err
		case errors.As(err, &unknown), Lost(err):
			if err := c.Reconnect(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// Lost reports whether a command failed because the connection is lost.
func Lost(err error) bool {
	return errors.Is(err, qmp.ErrConnectionLost) || errors.Is(err, qmp.ErrClosed)
}

// Values returns the values of results, and the first error among them.
func Values(results []qmp.Result) ([]json.RawMessage, error) {
	values := make([]json.RawMessage, len(results))
	var failed error
	for i, r := range results {
		if r.Err != nil && failed == nil {
			failed = r.Err
		}
		values[i] = r.Value
	}
	return values, failed
}

// Get executes one query and decodes its value into a T.
func Get[T any](ctx context.Context, q Querier, cmd qmp.Command) (T, error) {
	var out T
	values, err := q.Query(ctx, cmd)
	if err != nil {
		return out, err
	}
	return out, Decode(values[0], &out, cmd)
}

// Decode decodes the value of a command.
func Decode(value []byte, into any, cmd qmp.Command) error {
	if err := qapi.Unmarshal(value, into); err != nil {
		return fmt.Errorf("the answer to %s is not what QEMU documents: %w", cmd.Execute, err)
	}
	return nil
}

// QOMList returns the command that lists the properties of a QOM path.
func QOMList(path string) qmp.Command {
	return qmp.Command{Execute: "qom-list", Arguments: qmp.Object{{Name: "path", Value: path}}}
}

// QOMGet returns the command that reads one property.
func QOMGet(path, property string) qmp.Command {
	return qmp.Command{Execute: "qom-get", Arguments: qmp.Object{{Name: "path", Value: path}, {Name: "property", Value: property}}}
}
