package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	"github.com/luksplug/luksplug/internal/qapi"
)

// Client is a connection to one QEMU's monitor. All its methods may be called
// from any number of goroutines at once.
type Client struct {
	session    *session
	dispatcher dispatcher
	ids        idStyle
	lastID     atomic.Uint64
	version    Version
	peerPID    int    // 0 if not known
	address    string // of the monitor, for SchemaID
	local      net.Addr
	remote     net.Addr

	source     SchemaSource  // nil: none
	schemaLock chan struct{} // a lock whose wait a context can end
	schema     *Schema       // guarded by schemaLock
}

// dispatcher passes calls to QEMU: a socket has many in flight, a serial has one.
type dispatcher interface {
	// run executes calls in their order and sets results[i] for calls[i].
	run(ctx context.Context, calls []*call, results []Result)
	// close releases everything, and wakes the callers of run.
	close() error
	// passesFiles reports whether run takes calls with a file.
	passesFiles() bool
}

// Option adjusts a new client.
type Option func(*options)

type options struct {
	trace   TraceFunc
	schema  *Schema
	source  SchemaSource
	address string
	ids     idStyle
	limit   int
}

func newOptions(ids idStyle, opts []Option) options {
	o := options{ids: ids, limit: DefaultLineLimit}
	for _, apply := range opts {
		apply(&o)
	}
	return o
}

// WithTrace reports the traffic, with secrets redacted, to t.
func WithTrace(t TraceFunc) Option { return func(o *options) { o.trace = t } }

func newClient(s *session, d dispatcher, o options) *Client {
	return &Client{session: s, dispatcher: d, ids: o.ids, schema: o.schema, source: o.source, schemaLock: make(chan struct{}, 1)}
}

// Execute sends cmd, waits for the reply, and returns its "return" value.
//
// The error is one of the three of the package comment: *Error (QEMU refused), *UnknownOutcomeError (sent,
// not answered), or any other (not sent). When ctx ends while QEMU executes cmd, Execute returns at once,
// and QEMU continues.
func (c *Client) Execute(ctx context.Context, cmd Command) (json.RawMessage, error) {
	results := c.ExecuteAll(ctx, cmd)
	return results[0].Value, results[0].Err
}

// ExecuteAll sends the commands in order without waiting for replies in
// between (a socket transport writes them together, except that a command with
// a File travels alone), and returns one result for each, in the same order.
//
// QEMU executes them one after the other. One that fails does NOT stop those
// behind it. If a command cannot be encoded, none is sent.
func (c *Client) ExecuteAll(ctx context.Context, cmds ...Command) []Result {
	results := make([]Result, len(cmds))
	calls := make([]*call, len(cmds))
	for i, cmd := range cmds {
		call, err := newCall(cmd, c.lastID.Add(1), c.ids, c.session.trace.on())
		if err != nil {
			for _, earlier := range calls[:i] {
				earlier.wipe()
			}
			for j := range results {
				results[j].Err = notSent(cmds[j].Execute, fmt.Errorf("command %d of the same batch: %w", i+1, err))
			}
			results[i].Err = err
			return results
		}
		calls[i] = call
	}
	c.dispatcher.run(ctx, calls, results)
	return results
}

// Subscribe starts a subscription to the events of the given names, or to all events if none is given. Close
// it when done. After loss of the connection its channel is closed from the start.
//
// The subscription ends with [ErrEventsLost] if events come faster than they are read, see [Subscription].
func (c *Client) Subscribe(names ...string) *Subscription {
	return c.session.hub.subscribe(names)
}

// Version is QEMU's version (qapi/control.json, VersionInfo).
type Version struct {
	// Package names the distributor's package; it is empty in QEMU's own builds.
	Package string `json:"package"`
	QEMU    struct {
		Major int `json:"major"`
		Micro int `json:"micro"`
		Minor int `json:"minor"`
	} `json:"qemu"`
}

// String returns the version's numbers: "10.0.2".
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro)
}

// Version returns QEMU's version.
func (c *Client) Version() Version { return c.version }

// VersionString returns QEMU's version with the distributor's package in
// parentheses, if there is one: "10.0.2 (Debian 1:10.0.2+ds-2)".
func (c *Client) VersionString() string {
	// QEMU before 5 writes the parentheses itself: " (Debian 1:3.1)".
	pkg := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(c.version.Package), "("), ")")
	if pkg == "" {
		return c.version.String()
	}
	return c.version.String() + " (" + pkg + ")"
}

// PassesFiles reports whether Command.File works on this client: over a unix socket, and where the Transport
// passes files. On other clients such a command fails with ErrFileUnsupported, unsent.
func (c *Client) PassesFiles() bool { return c.dispatcher.passesFiles() }

// PeerPID returns the process id of the QEMU at the other end of a unix socket (SO_PEERCRED, unix(7)). For a
// socket that was passed to QEMU as a descriptor, the kernel names the process that called listen; for a
// socketpair, the one that made it. It reports false for other transports.
func (c *Client) PeerPID() (int, bool) { return c.peerPID, c.peerPID != 0 }

// Addresses returns the addresses of this end and of the monitor's end of a connection over a socket, nil for
// other transports.
func (c *Client) Addresses() (local, remote net.Addr) { return c.local, c.remote }

// Done is closed when the connection ends, by Close or by a failure.
func (c *Client) Done() <-chan struct{} { return c.session.ctx.Done() }

// Err returns nil while the connection is alive, and then why it ended: ErrClosed
// after Close, otherwise an error that wraps ErrConnectionLost.
func (c *Client) Err() error { return c.session.cause() }

// Close ends the connection. Callers that wait for a reply get an *UnknownOutcomeError, subscriptions are
// closed. QEMU keeps running. Close may be called again, to no effect.
func (c *Client) Close() error {
	c.session.fail(ErrClosed)
	err := c.dispatcher.close()
	c.session.hub.closeAll(c.session.cause())
	return err
}

// queryVersion queries the version for a transport without a greeting.
func (c *Client) queryVersion(ctx context.Context) error {
	value, err := c.Execute(ctx, Command{Execute: "query-version"})
	if err != nil {
		return err
	}
	var v Version
	if err := qapi.Unmarshal(value, &v); err != nil {
		return fmt.Errorf("query-version: %w: %w", ErrProtocol, err)
	}
	c.setVersion(v)
	return nil
}

// setVersion takes what QEMU says; its package's name, which is in messages, has a bound.
func (c *Client) setVersion(v Version) {
	v.Package = shorten(v.Package)
	c.version = v
}
