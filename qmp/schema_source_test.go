package qmp

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// fakeSource records the queries, and may have a schema.
type fakeSource struct {
	schema *Schema
	mu     sync.Mutex
	asked  []SchemaID
	kept   [][]byte
}

func (f *fakeSource) Schema(_ context.Context, id SchemaID) *Schema {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, id)
	return f.schema
}

func (f *fakeSource) Keep(_ context.Context, id SchemaID, raw []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, id)
	f.kept = append(f.kept, raw)
}

// QEMU is queried for a schema that the source does not have, and the source receives the answer.
func TestSchemaSource(t *testing.T) {
	t.Parallel()
	var trace qmptest.Log
	source := &fakeSource{}
	c, q := startNone(t, traceTo(&trace), WithSchemaSource(source))
	asked, err := c.Schema(qmptest.Context(t))
	must.OK(t, err)
	if _, err := c.Schema(qmptest.Context(t)); err != nil || len(source.asked) != 2 || len(source.kept) != 1 {
		t.Fatalf("%v; asked %v, kept %d", err, source.asked, len(source.kept))
	}
	pid, _ := c.PeerPID()
	want := SchemaID{Version: c.VersionString(), Target: "x86_64", PID: pid, Address: "unix:" + q.Unix}
	if source.asked[0] != want || source.asked[1] != want {
		t.Errorf("asked for %+v, want %+v", source.asked, want)
	}
	if !strings.Contains(trace.String(), "query-qmp-schema") {
		t.Error("the trace does not show the query")
	}
	if s, err := ParseSchema(source.kept[0]); err != nil || !reflect.DeepEqual(s, asked) {
		t.Errorf("the kept schema is not the answer: %v", err)
	}

	source.schema = asked
	var second qmptest.Log
	over := dialTest(t, q.TCP, traceTo(&second), WithSchemaSource(source))
	if s, err := over.Schema(qmptest.Context(t)); err != nil || s != asked {
		t.Errorf("%v", err)
	}
	if strings.Contains(second.String(), "query-qmp-schema") {
		t.Error("QEMU was queried although the source has the schema")
	}
	if id := source.asked[2]; id.PID != 0 || id.Version != want.Version || id.Address != "tcp:"+q.TCP {
		t.Errorf("over TCP: %+v", id)
	}
}

// A program without query-target is named by its version alone.
func TestSchemaSourceStorageDaemon(t *testing.T) {
	t.Parallel()
	conn := qmptest.StartOver(t, qmptest.Program(t, "qemu-storage-daemon"), "--chardev", "socket,id=m,fd=3", "--monitor", "chardev=m")
	source := &fakeSource{}
	c, err := NewConn(qmptest.Context(t), conn, WithSchemaSource(source))
	must.OK(t, err)
	defer qmptest.Close(t, c)
	if _, err := c.Schema(qmptest.Context(t)); err != nil || len(source.asked) == 0 || source.asked[0].Target != "" || source.asked[0].Address != "" {
		t.Errorf("%v: %v", source.asked, err)
	}
}

// Without a target there is no schema, and the source is not queried.
func TestSchemaSourceLosesQEMU(t *testing.T) {
	t.Parallel()
	path := greetingPeer(t, func(p *fakeConn) {
		c, _ := p.receive()
		p.send(reply(c.ID, "[]"))
		p.receive()
	})
	source := &fakeSource{}
	c := dialTest(t, path, WithSchemaSource(source))
	if _, err := c.Schema(qmptest.Context(t)); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
	if _, err := c.Schema(qmptest.Context(t)); !errors.Is(err, ErrConnectionLost) || len(source.asked) > 0 {
		t.Errorf("%v", err)
	}
}

// CompactSchema keeps everything that Schema uses.
func TestCompactSchema(t *testing.T) {
	t.Parallel()
	c, _ := startNone(t)
	raw, err := c.Execute(qmptest.Context(t), Command{Execute: "query-qmp-schema"})
	must.OK(t, err)
	compact, err := CompactSchema(raw)
	must.OK(t, err)
	full, err := ParseSchema(raw)
	must.OK(t, err)
	small, err := ParseSchema(compact)
	must.OK(t, err)
	if !reflect.DeepEqual(small, full) {
		t.Error("the compact schema differs")
	}
	checkRealSchema(t, small)
	if len(compact) > len(raw)*2/3 {
		t.Errorf("%d bytes of %d", len(compact), len(raw))
	}
	again, err := CompactSchema(compact)
	if err != nil || !bytes.Equal(again, compact) {
		t.Errorf("compacting twice gives something else: %v", err)
	}
	t.Logf("%d bytes of %d", len(compact), len(raw))
	if _, err := CompactSchema([]byte("[")); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
}
