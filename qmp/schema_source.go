package qmp

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/internal/qapi"
)

// SchemaID identifies the QEMU whose schema is requested.
type SchemaID struct {
	// Version is Client.VersionString, with the distributor's package.
	Version string
	// Target is the architecture that it emulates (query-target), for example
	// "x86_64"; empty for a qemu-storage-daemon, which emulates none.
	Target string
	// PID is Client.PeerPID, or 0 where that is not known.
	PID int
	// Address names the monitor, as "tcp:10.0.0.1:4444", "unix:/run/vm1.sock" or "libvirt:" and the domain's
	// UUID; empty if it has no name. The schema of one monitor need not hold for another one of the same
	// version.
	Address string
}

// SchemaSource provides schemas without querying the QEMU that a client is connected to, because
// query-qmp-schema stalls QEMU's main loop, and with it the guest, for some 50 ms. Its methods may be called
// from any number of goroutines at once, and must not call the client.
type SchemaSource interface {
	// Schema returns the schema of the QEMU that id names, or nil: then the client queries QEMU. A failure of
	// the source must not fail the caller, so there is no error.
	Schema(ctx context.Context, id SchemaID) *Schema
	// Keep receives the valid "return" value of query-qmp-schema after QEMU had to be queried. raw must not
	// be changed.
	Keep(ctx context.Context, id SchemaID, raw []byte)
}

// WithSchema passes the schema of an earlier connection to the same QEMU binary, so that Client.Schema does
// not query it.
func WithSchema(s *Schema) Option { return func(o *options) { o.schema = s } }

// WithSchemaSource makes Client.Schema try s before QEMU.
func WithSchemaSource(s SchemaSource) Option { return func(o *options) { o.source = s } }

// Schema returns QEMU's description of its commands, from WithSchema, from WithSchemaSource, or else from
// QEMU itself, which stalls the guest for some 50 ms. It is obtained once per connection; concurrent callers
// share the answer. A failure is not cached: the next caller queries QEMU again.
func (c *Client) Schema(ctx context.Context) (*Schema, error) {
	const query = "query-qmp-schema"
	select {
	case c.schemaLock <- struct{}{}:
		defer func() { <-c.schemaLock }()
	case <-ctx.Done():
		return nil, notSent(query, ctx.Err())
	}
	if c.schema != nil {
		return c.schema, nil
	}
	var id SchemaID
	if c.source != nil {
		var err error
		if id, err = c.schemaID(ctx); err != nil {
			return nil, err
		}
		if c.schema = c.source.Schema(ctx, id); c.schema != nil {
			return c.schema, nil
		}
	}
	value, err := c.Execute(ctx, Command{Execute: query})
	if err != nil {
		return nil, err
	}
	if c.schema, err = ParseSchema(value); err != nil {
		return nil, err
	}
	if c.source != nil {
		c.source.Keep(ctx, id, value)
	}
	return c.schema, nil
}

// schemaID queries QEMU for what its greeting lacks, which takes 0.2 ms.
func (c *Client) schemaID(ctx context.Context) (SchemaID, error) {
	id := SchemaID{Version: c.VersionString(), Address: c.address, PID: c.peerPID}
	value, err := c.Execute(ctx, Command{Execute: "query-target"})
	if errors.Is(err, ErrCommandNotFound) {
		return id, nil
	}
	if err != nil {
		return SchemaID{}, err
	}
	var target struct {
		Arch string `json:"arch"`
	}
	if err := qapi.Unmarshal(value, &target); err != nil {
		return SchemaID{}, fmt.Errorf("query-target: %w: %w", ErrProtocol, err)
	}
	id.Target = target.Arch
	return id, nil
}
