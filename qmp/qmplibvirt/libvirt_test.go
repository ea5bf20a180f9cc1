package qmplibvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"go.uber.org/goleak"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qapi"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
)

// Procedure and program numbers of libvirt's remote_protocol.x and qemu_protocol.x.
const (
	remoteProgram    = 0x20008086
	qemuProgram      = 0x20008087
	procLookupByName = 23
	procAuthList     = 66
	procCommand      = 1
	procRegister     = 4
	procDeregister   = 5
	procEvent        = 6
)

// fakeLibvirtd implements the part of libvirt's RPC that NewClient needs, and passes monitor commands to a
// real QEMU as libvirtd does: with its own id, and refusing a command that has one.
type fakeLibvirtd struct {
	t    *testing.T
	qemu *qmp.Client

	mu           sync.Mutex // serialises writes to conn
	conn         net.Conn
	deregistered chan struct{}
	callbackID   atomic.Uint32 // of the last subscription: libvirtd gives each another
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startLibvirt(t *testing.T, qemu *qmp.Client) (*libvirt.Libvirt, *fakeLibvirtd) {
	t.Helper()
	near, far := net.Pipe()
	d := &fakeLibvirtd{t: t, qemu: qemu, conn: far, deregistered: make(chan struct{}, 10)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer func() { _ = far.Close() }() // the test may have closed it
		d.serve()
	}()
	events := qemu.Subscribe()
	go func() {
		for e := range events.Events() {
			d.sendEvent(e)
		}
	}()
	l := libvirt.NewWithDialer(pipeDialer{near})
	must.OK(t, l.Connect())
	t.Cleanup(func() {
		events.Close()
		_ = near.Close() // not by Disconnect, whose reply never comes if go-libvirt is stuck in a flood of events
		<-served
	})
	return l, d
}

type pipeDialer struct{ conn net.Conn }

func (p pipeDialer) Dial() (net.Conn, error) { return p.conn, nil }

type rpcHeader struct {
	Program, Version, Procedure, Type, Serial, Status uint32
}

func (d *fakeLibvirtd) serve() {
	for {
		var length uint32
		if binary.Read(d.conn, binary.BigEndian, &length) != nil {
			return
		}
		packet := make([]byte, length-4)
		if _, err := io.ReadFull(d.conn, packet); err != nil {
			return
		}
		var h rpcHeader
		body := bytes.NewReader(packet)
		if binary.Read(body, binary.BigEndian, &h) != nil {
			return
		}
		// Each call in its own goroutine, as libvirtd's workers.
		go func() {
			h.Type = 1 // reply
			switch [2]uint32{h.Program, h.Procedure} {
			case [2]uint32{remoteProgram, procAuthList}:
				d.send(h, xdr(uint32(1), uint32(0)))
			case [2]uint32{remoteProgram, procLookupByName}:
				d.send(h, xdr("vm1", testDomain.UUID, uint32(14)))
			case [2]uint32{qemuProgram, procRegister}:
				d.send(h, xdr(d.callbackID.Add(1)))
			case [2]uint32{qemuProgram, procDeregister}:
				d.send(h, nil)
				d.deregistered <- struct{}{}
			case [2]uint32{qemuProgram, procCommand}:
				d.command(h, body)
			default: // open, close
				d.send(h, nil)
			}
		}()
	}
}

func (d *fakeLibvirtd) send(h rpcHeader, body []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	packet := append(xdr(uint32(28+len(body)), h.Program, uint32(1), h.Procedure, h.Type, h.Serial, h.Status), body...)
	_, _ = d.conn.Write(packet) // the client may be gone
}

// command answers a monitor command: domain (name, uuid, id), text, flags.
func (d *fakeLibvirtd) command(h rpcHeader, body *bytes.Reader) {
	name := readString(body)
	_, _ = body.Seek(16+4, io.SeekCurrent) // cannot fail
	text := readString(body)
	var cmd struct {
		Execute   string          `json:"execute"`
		Arguments map[string]any  `json:"arguments"`
		ID        json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal([]byte(text), &cmd); err != nil || name != "vm1" {
		d.t.Errorf("libvirt got %q for domain %q: %v", text, name, err)
	}
	switch {
	case cmd.ID != nil:
		d.refuse(h, libvirt.ErrInternalError, "internal error: duplicate key 'id'")
		return
	case cmd.Execute == "off":
		d.refuse(h, libvirt.ErrOperationInvalid, "Requested operation is not valid: domain is not running")
		return
	case cmd.Execute == "silence":
		return
	}
	reply := map[string]any{"id": "libvirt-373"}
	value, err := d.qemu.Execute(context.Background(), qmp.Command{Execute: cmd.Execute, Arguments: qapi.Sorted(cmd.Arguments)})
	if refusal, ok := qmptest.ErrorAs[*qmp.Error](err); ok {
		reply["error"] = map[string]any{"class": refusal.Class, "desc": refusal.Description}
	} else if err != nil {
		d.refuse(h, libvirt.ErrInternalError, err.Error())
		return
	} else {
		reply["return"] = value
	}
	line, err := json.Marshal(reply)
	if err != nil {
		d.t.Error(err)
	}
	d.send(h, xdr(string(line)))
}

func (d *fakeLibvirtd) refuse(h rpcHeader, code libvirt.ErrorNumber, message string) {
	h.Status = 1
	// remote_error: code, domain, message (optional), level, and what else go-libvirt ignores.
	d.send(h, xdr(uint32(code), uint32(10), uint32(1), message, uint32(2)))
}

func (d *fakeLibvirtd) sendEvent(e qmp.Event) {
	data, err := json.Marshal(e.Data)
	if err != nil {
		d.t.Error(err)
	}
	d.send(rpcHeader{Program: qemuProgram, Procedure: procEvent, Type: 2}, xdr(d.callbackID.Load(), "vm1", testDomain.UUID,
		uint32(14), e.Event, uint64(e.Timestamp.Seconds), uint32(e.Timestamp.Microseconds), uint32(1), string(data)))
}

var testDomain = libvirt.Domain{Name: "vm1", UUID: libvirt.UUID{1, 2, 3}, ID: 14}

// xdr encodes numbers, strings and fixed opaque data (RFC 4506).
func xdr(values ...any) []byte {
	var out []byte
	for _, v := range values {
		switch v := v.(type) {
		case uint32:
			out = binary.BigEndian.AppendUint32(out, v)
		case uint64:
			out = binary.BigEndian.AppendUint64(out, v)
		case libvirt.UUID:
			out = append(out, v[:]...)
		case string:
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(v))), v...)
			out = append(out, make([]byte, (4-len(v)%4)%4)...)
		}
	}
	return out
}

func readString(r *bytes.Reader) string {
	var length uint32
	if binary.Read(r, binary.BigEndian, &length) != nil {
		return ""
	}
	text := make([]byte, (length+3)/4*4)
	if _, err := io.ReadFull(r, text); err != nil {
		return ""
	}
	return string(text[:length])
}

func TestNewClient(t *testing.T) {
	t.Parallel()
	qemu := startNone(t)
	l, daemon := startLibvirt(t, qemu)
	var trace qmptest.Log
	c, err := NewClient(qmptest.Context(t), l, testDomain, nil, qmp.WithTrace(func(e qmp.TraceEntry) { trace.Add(e.Direction, e.JSON) }))
	must.OK(t, err)
	if c.VersionString() != qemu.VersionString() {
		t.Errorf("%q", c.VersionString())
	}
	if _, known := c.PeerPID(); known {
		t.Error("a pid through libvirt")
	}
	sub := c.Subscribe("STOP")
	results := c.ExecuteAll(qmptest.Context(t), qmp.Command{Execute: "stop"}, command("blockdev-del", "node-name", "none"),
		command("device_del", "id", "none"), command("object-add", "qom-type", "secret", "id", "s", "data", qmp.NewSensitive([]byte("c2VjcmV0"))),
		qmp.Command{Execute: "add-fd", File: qmptest.Memfd(t, 0)}, qmp.Command{Execute: "off"})
	if results[0].Err != nil || results[3].Err != nil {
		t.Errorf("%v", results)
	}
	if refusal, ok := qmptest.ErrorAs[*qmp.Error](results[1].Err); !ok || refusal.Class != "GenericError" || !errors.Is(refusal, qmp.ErrNodeNotFound) {
		t.Errorf("%v", results[1].Err)
	}
	if !errors.Is(results[2].Err, qmp.ErrDeviceNotFound) { // the class passes through libvirt
		t.Errorf("%v", results[2].Err)
	}
	if !errors.Is(results[4].Err, qmp.ErrFileUnsupported) {
		t.Errorf("%v", results[4].Err)
	}
	if _, unknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](results[5].Err); unknown || !strings.Contains(results[5].Err.Error(), "not running") {
		t.Errorf("%v", results[5].Err)
	}
	if e := qmptest.Await(t, sub.Events(), "STOP"); e.Timestamp.Seconds == 0 {
		t.Errorf("%+v", e)
	}
	schema, err := c.Schema(qmptest.Context(t))
	if err != nil || !schema.Supports("blockdev-add", "luks.header") {
		t.Errorf("schema: %v", err)
	}
	if text := trace.String(); strings.Contains(text, "c2VjcmV0") || !strings.Contains(text, qapi.Redacted) || !strings.Contains(text, "event") {
		t.Errorf("trace:\n%.2000s", text)
	}

	ctx, cancel := context.WithCancel(qmptest.Context(t))
	errs := qmptest.Start(ctx, c.Execute, qmp.Command{Execute: "silence"})
	cancel()
	if err := qmptest.Await(t, errs, "the cancelled caller"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	must.OK(t, c.Close())
	must.OK(t, c.Close())
	qmptest.AwaitClosed(t, sub.Events(), "the subscription")
	qmptest.Await(t, daemon.deregistered, "the end of the event subscription")
	if !l.IsConnected() {
		t.Error("Close has cut the caller's libvirt connection")
	}
}

// A client that has received no event ends its subscription at the first one after Close, and does not block
// go-libvirt.
func TestNewClientCloseWithoutEvent(t *testing.T) {
	t.Parallel()
	l, daemon := startLibvirt(t, startNone(t))
	c, err := NewClient(qmptest.Context(t), l, testDomain, nil)
	must.OK(t, err)
	must.OK(t, c.Close())
	for range 3 {
		daemon.sendEvent(qmp.Event{Event: "STOP", Data: map[string]any{}})
	}
	qmptest.Await(t, daemon.deregistered, "the end of the event subscription")
	if c, err = NewClient(qmptest.Context(t), l, testDomain, nil); err != nil {
		t.Fatalf("the connection after that: %v", err)
	}
	must.OK(t, c.Close())
}

func TestNewClientLosesConnection(t *testing.T) {
	t.Parallel()
	l, daemon := startLibvirt(t, startNone(t))
	c, err := NewClient(qmptest.Context(t), l, testDomain, nil)
	must.OK(t, err)
	defer qmptest.Close(t, c)
	errs := qmptest.Start(context.Background(), c.Execute, qmp.Command{Execute: "silence"})
	qmptest.Close(t, daemon.conn)
	qmptest.AwaitDone(t, c.Done())
	if err := qmptest.Await(t, errs, "the caller"); err == nil {
		t.Error("silence was answered")
	}
	if !errors.Is(c.Err(), qmp.ErrConnectionLost) {
		t.Errorf("%v", c.Err())
	}
	if _, err := NewClient(qmptest.Context(t), l, testDomain, nil); err == nil {
		t.Error("a client over a lost connection")
	}
}

func TestPassesFiles(t *testing.T) {
	t.Parallel()
	l, _ := startLibvirt(t, startNone(t))
	for _, passFile := range []FilePasser{nil, Virsh{}.PassFile} {
		c, err := NewClient(qmptest.Context(t), l, testDomain, passFile)
		must.OK(t, err)
		if c.PassesFiles() != (passFile != nil) {
			t.Error("only a FilePasser passes files")
		}
		qmptest.Close(t, c)
	}
}

// startNone starts a QEMU without a machine, and returns a client of it.
func startNone(t *testing.T) *qmp.Client {
	t.Helper()
	c, _ := qmptest.StartNone(t, func(ctx context.Context, address string) (*qmp.Client, error) { return qmp.Dial(ctx, address) })
	return c
}

// command builds a Command from name and value pairs.
func command(execute string, pairs ...any) qmp.Command {
	cmd := qmp.Command{Execute: execute}
	for i := 0; i < len(pairs); i += 2 {
		cmd.Arguments.Add(pairs[i].(string), pairs[i+1])
	}
	return cmd
}

// TestEventsPileUp: events that come faster than the trace takes them end the connection with ErrEventsLost, instead
// of filling go-libvirt's queue.
func TestEventsPileUp(t *testing.T) {
	t.Parallel()
	l, daemon := startLibvirt(t, startNone(t))
	goOn := make(chan struct{})
	c, err := NewClient(qmptest.Context(t), l, testDomain, nil, qmp.WithTrace(func(e qmp.TraceEntry) {
		if e.Direction == qmp.Occurred {
			<-goOn
		}
	}))
	must.OK(t, err)
	defer qmptest.Close(t, c)
	data := map[string]any{"x": strings.Repeat("y", 1000)}
	for range backlogEvents + 10 {
		daemon.sendEvent(qmp.Event{Event: "FLOOD", Data: data})
	}
	qmptest.Await(t, daemon.deregistered, "the end of the event subscription")
	close(goOn)
	qmptest.AwaitDone(t, c.Done())
	if !errors.Is(c.Err(), qmp.ErrConnectionLost) || !errors.Is(c.Err(), qmp.ErrEventsLost) {
		t.Errorf("%v", c.Err())
	}
	if !l.IsConnected() {
		t.Error("the caller's libvirt connection has ended")
	}
}

// TestReplyBound: a reply that libvirt passes on has the client's bound, and ends the client beyond it.
func TestReplyBound(t *testing.T) {
	t.Parallel()
	l, _ := startLibvirt(t, startNone(t))
	c, err := NewClient(qmptest.Context(t), l, testDomain, nil, qmp.WithLineLimit(100<<10)) // less than a schema
	must.OK(t, err)
	defer qmptest.Close(t, c)
	if _, err := c.Schema(qmptest.Context(t)); !errors.Is(err, qmp.ErrMessageTooLarge) {
		t.Errorf("%v", err)
	}
	qmptest.AwaitDone(t, c.Done())
	if !errors.Is(c.Err(), qmp.ErrConnectionLost) {
		t.Errorf("%v", c.Err())
	}
}
