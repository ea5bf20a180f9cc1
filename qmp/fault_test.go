package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qapi"
	"github.com/luksplug/luksplug/internal/qmptest"
)

const strayEvent = `{"event":"STRAY","data":{"n":1},"timestamp":{"seconds":1,"microseconds":2}}`

// Events at every moment of the handshake, in one segment with what follows.
func TestEventsDuringHandshake(t *testing.T) {
	t.Parallel()
	path := fakePeer(t, func(p *fakeConn) {
		if !p.send(strayEvent, fakeGreeting, strayEvent) {
			return
		}
		c, _ := p.receive()
		if !p.send(strayEvent, reply(c.ID, "{}"), strayEvent) {
			return
		}
		c, _ = p.receive()
		p.send(strayEvent, `{"return":"late","id":12345}`, `{"return":"no number","id":"x"}`, "", reply(c.ID, `"mine"`))
		p.drain()
	})
	var trace qmptest.Log
	c := dialTest(t, path, traceTo(&trace))
	sub := c.Subscribe("STRAY")
	defer sub.Close()
	value, err := c.Execute(qmptest.Context(t), Command{Execute: "x"})
	if err != nil || string(value) != `"mine"` {
		t.Errorf("%s, %v", value, err)
	}
	if c.VersionString() != "10.0.2 (fake)" {
		t.Error(c.VersionString())
	}
	if e := qmptest.Await(t, sub.Events(), "the event"); e.Data["n"] != 1.0 || e.Timestamp.Microseconds != 2 {
		t.Errorf("%+v", e)
	}
	if n := strings.Count("\n"+trace.String(), "\nevent "); n != 5 {
		t.Errorf("%d events traced", n)
	}
}

// QEMU sends its pending replies to a client that is gone to the next one: before the greeting and after it,
// with any number that the other client can have used.
func TestRepliesToAnother(t *testing.T) {
	t.Parallel()
	stale := []string{`{"return":"another's"}`, `{"error":{"class":"GenericError","desc":"another's"},"id":1}`}
	for id := range uint64(20) {
		stale = append(stale, reply(id, `"another's"`))
	}
	path := fakePeer(t, func(p *fakeConn) {
		if !p.send(stale...) || !p.greet() || !p.send(stale...) {
			return
		}
		for c, ok := p.receive(); ok; c, ok = p.receive() {
			if !p.send(stale...) || !p.send(reply(c.ID, `"mine"`)) {
				return
			}
		}
	})
	first, second := dialTest(t, path), dialTest(t, path)
	for _, c := range []*Client{first, second} {
		for _, r := range c.ExecuteAll(qmptest.Context(t), slices.Repeat([]Command{{Execute: "x"}}, 20)...) {
			if r.Err != nil || string(r.Value) != `"mine"` {
				t.Errorf("%s, %v", r.Value, r.Err)
			}
		}
	}
	if first.lastID.Load()>>16 == second.lastID.Load()>>16 {
		t.Error("both connections count from the same number") // by chance once in 2^32
	}
}

// Five megabytes in one line, and in an event, and a small reply after it.
func TestHugeMessages(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", 5<<20)
	path := greetingPeer(t, func(p *fakeConn) {
		a, _ := p.receive()
		b, _ := p.receive()
		p.send(`{"event":"HUGE","data":{"x":"`+huge+`"},"timestamp":{"seconds":1,"microseconds":1}}`,
			reply(a.ID, `"`+huge+`"`), reply(b.ID, `"small"`))
		p.drain()
	})
	c := dialTest(t, path)
	sub := c.Subscribe()
	defer sub.Close()
	results := c.ExecuteAll(qmptest.Context(t), Command{Execute: "a"}, Command{Execute: "b"})
	if results[0].Err != nil || len(results[0].Value) != len(huge)+2 {
		t.Errorf("%d bytes, %v", len(results[0].Value), results[0].Err)
	}
	if results[1].Err != nil || string(results[1].Value) != `"small"` {
		t.Errorf("%s, %v", results[1].Value, results[1].Err)
	}
	if e := qmptest.Await(t, sub.Events(), "the event"); e.Data["x"] != huge {
		t.Error("the event is not whole")
	}
}

// Replies in another order than their commands, one of them after its caller
// has left: each caller gets its own or none.
func TestRepliesOutOfOrderAndLate(t *testing.T) {
	t.Parallel()
	first := make(chan uint64, 1)
	goOn := make(chan struct{})
	path := greetingPeer(t, func(p *fakeConn) {
		late, _ := p.receive()
		first <- late.ID
		<-goOn
		b, _ := p.receive()
		c, _ := p.receive()
		p.send(reply(c.ID, `"c"`), reply(late.ID, `"dGhlIHNlY3JldA=="`), reply(b.ID, `"b"`))
		p.drain()
	})
	var trace qmptest.Log
	client := dialTest(t, path, traceTo(&trace))
	ctx, cancel := context.WithCancel(qmptest.Context(t))
	secret := []byte("dGhlIHNlY3JldA==")
	done := make(chan error, 1)
	go func() {
		_, err := client.Execute(ctx, command("late", "data", NewSensitive(secret)))
		clear(secret) // allowed as soon as Execute has returned
		done <- err
	}()
	id := qmptest.Await(t, first, "the command")
	cancel()
	err := qmptest.Await(t, done, "the cancelled caller")
	unknown, ok := qmptest.ErrorAs[*UnknownOutcomeError](err)
	if !ok || unknown.Command != "late" || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	close(goOn)
	results := client.ExecuteAll(qmptest.Context(t), Command{Execute: "b"}, Command{Execute: "c"})
	for i, want := range []string{`"b"`, `"c"`} {
		if results[i].Err != nil || string(results[i].Value) != want {
			t.Errorf("%s: %s, %v", want, results[i].Value, results[i].Err)
		}
	}
	if text := trace.String(); strings.Contains(text, "dGhlIHNlY3JldA") ||
		!strings.Contains(text, fmt.Sprintf(`received {"late":true,"id":%d}`, id)) {
		t.Errorf("trace:\n%s", text)
	}
}

// A secret that comes back, in a value and in an error, is scrubbed everywhere.
func TestSecretsAreScrubbed(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0L3ZhbHVl"
	path := greetingPeer(t, func(p *fakeConn) {
		a, _ := p.receive()
		b, _ := p.receive()
		if a.Arguments["data"] != secret {
			p.send(reply(a.ID, `"the secret did not arrive"`))
		}
		p.send(reply(a.ID, `{"echo":["`+secret+`","c2VjcmV0L3\u005ahbHVl","x"]}`),
			fmt.Sprintf(`{"error":{"class":"GenericError","desc":"bad data '%s'"},"id":%d}`, secret, b.ID))
		p.drain()
	})
	var trace qmptest.Log
	c := dialTest(t, path, traceTo(&trace))
	cmd := command("object-add", "data", NewSensitive([]byte(secret)))
	results := c.ExecuteAll(qmptest.Context(t), cmd, cmd)
	if string(results[0].Value) != `{"echo":["[redacted]","[redacted]","x"]}` {
		t.Errorf("%s, %v", results[0].Value, results[0].Err)
	}
	if refusal, ok := qmptest.ErrorAs[*Error](results[1].Err); !ok || refusal.Description != "bad data '[redacted]'" {
		t.Errorf("%v", results[1].Err)
	}
	text := trace.String()
	if strings.Contains(text, secret) || strings.Count(text, qapi.Redacted) != 5 {
		t.Errorf("trace:\n%s", text)
	}
}

// Protocol violations of the peer end the connection, and wake the callers.
func TestProtocolFaults(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"no JSON":         `{"return": ]`,
		"text":            "(qemu) ",
		"cut off":         "{\"return\": \r\n" + strayEvent + "\r\n" + strayEvent,
		"cut in a string": `{"return": "a`,
		"value cut off":   "{\"return\": {}\r\n" + strayEvent,
		"no message":      `{"id":1}`,
		"array":           `[]`,
		"error, no id":    `{"error":{"class":"GenericError","desc":"JSON parse error"}}`,
		"end within line": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := greetingPeer(t, func(p *fakeConn) {
				if _, ok := p.receive(); !ok {
					return
				}
				if line == "" {
					_, _ = p.Write([]byte(`{"return"`)) // the client is there, or the test fails
					return
				}
				p.send(line)
				p.drain()
			})
			c := dialTest(t, path)
			_, err := c.Execute(qmptest.Context(t), Command{Execute: "x"})
			if !isUnknown(err) || !errors.Is(err, ErrConnectionLost) ||
				errors.Is(err, ErrProtocol) == (line == "") {
				t.Errorf("%v", err)
			}
			qmptest.AwaitDone(t, c.Done())
		})
	}
}

func TestHandshakeFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		serve func(p *fakeConn)
		want  error
	}{
		"not QMP":        {func(p *fakeConn) { p.send("220 mail.example ESMTP"); p.drain() }, ErrProtocol},
		"not QMP, cut":   {func(p *fakeConn) { _, _ = p.Write([]byte("(qemu) ")) }, ErrNoGreeting},
		"only a reply":   {func(p *fakeConn) { p.send(`{"return":{}}`) }, ErrNoGreeting},
		"closes at once": {func(*fakeConn) {}, ErrNoGreeting},
		"closes later":   {func(p *fakeConn) { p.send(fakeGreeting) }, ErrConnectionLost},
		"refuses": {func(p *fakeConn) {
			p.send(fakeGreeting)
			c, _ := p.receive()
			p.send(fmt.Sprintf(`{"error":{"class":"CommandNotFound","desc":"no"},"id":%d}`, c.ID))
			p.drain()
		}, ErrCommandNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Dial(qmptest.Context(t), fakePeer(t, test.serve)); !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := Dial(qmptest.Context(t), "/no/such/socket"); err == nil || !strings.Contains(err.Error(), "no such socket") {
		t.Errorf("%v", err)
	}
}

// A peer that reads nothing: a command that cannot be written whole within its context spoils the stream, so
// the connection ends; a command that was not begun is not sent, and the connection continues.
func TestPeerStopsReading(t *testing.T) {
	t.Parallel()
	path := greetingPeer(t, func(p *fakeConn) {
		// Reads no more: its buffer fills. The write below ends when the client is gone.
		for p.send(strayEvent) {
			continue
		}
	})
	c := dialTest(t, path)
	waiting := qmptest.Start(context.Background(), c.Execute, Command{Execute: "small"})
	waitPending(t, c, 1)
	ctx, cancel := context.WithCancel(qmptest.Context(t))
	torn := qmptest.Start(ctx, c.Execute, command("big", "x", strings.Repeat("x", 8<<20)))
	raw, err := c.dispatcher.(*socket).conn.(*net.UnixConn).SyscallConn()
	must.OK(t, err)
	waitUntil(t, func() (begun bool) { // the kernel holds a part of the big command
		must.OK(t, raw.Control(func(fd uintptr) {
			queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			begun = err == nil && queued > 32<<10
		}))
		return begun
	})
	// The writer holds the lock. A command that waits for it with another context is not sent.
	behind, cancelBehind := context.WithCancel(qmptest.Context(t))
	cancelBehind()
	_, err = c.Execute(behind, Command{Execute: "behind"})
	if isUnknown(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("behind: %v", err)
	}
	cancel()
	if !isUnknown(qmptest.Await(t, torn, "the torn command")) {
		t.Error("the torn command's outcome is known")
	}
	err = qmptest.Await(t, waiting, "the other caller")
	if !isUnknown(err) || !errors.Is(err, ErrConnectionLost) {
		t.Errorf("the other caller: %v", err)
	}
	qmptest.AwaitDone(t, c.Done())
	if !strings.Contains(c.Err().Error(), "in part") {
		t.Errorf("%v", c.Err())
	}
}

// A batch cut between two commands leaves a sound stream.
func TestWriteReportsWhereItWasCut(t *testing.T) {
	t.Parallel()
	calls := []*call{{wire: make([]byte, 10)}, {wire: make([]byte, 10)}, {wire: make([]byte, 10)}}
	for cut, want := range map[int]struct {
		sent int
		torn bool
	}{0: {0, false}, 3: {0, true}, 10: {1, false}, 25: {2, true}, 20: {2, false}} {
		s := &socket{conn: &cutConn{limit: cut}, session: newSession(options{})}
		sent, torn, err := s.write(calls)
		if sent != want.sent || torn != want.torn || !errors.Is(err, errCut) {
			t.Errorf("cut at %d: %d sent, torn %v, %v", cut, sent, torn, err)
		}
	}
}

var errCut = errors.New("cut")

// cutConn takes limit bytes.
type cutConn struct {
	net.Conn
	limit int
}

func (c *cutConn) Write(b []byte) (int, error) {
	n := min(c.limit, len(b))
	c.limit -= n
	if n < len(b) {
		return n, errCut
	}
	return n, nil
}

func TestCancelledContextSendsNothing(t *testing.T) {
	t.Parallel()
	var trace qmptest.Log
	c, _ := startNone(t, traceTo(&trace))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, r := range c.ExecuteAll(ctx, Command{Execute: "stop"}, Command{Execute: "quit"}) {
		if isUnknown(r.Err) || !errors.Is(r.Err, context.Canceled) {
			t.Errorf("%v", r.Err)
		}
	}
	// Neither does a batch of which one command cannot be encoded.
	results := c.ExecuteAll(qmptest.Context(t), Command{Execute: "stop"}, command("x", "a", struct{}{}), Command{Execute: "quit"})
	for _, r := range results {
		if !errors.Is(r.Err, ErrEncode) {
			t.Errorf("%v", r.Err)
		}
	}
	if _, err := c.Execute(qmptest.Context(t), Command{Execute: "query-status"}); err != nil {
		t.Error(err)
	}
	if text := trace.String(); strings.Contains(text, "stop") || strings.Contains(text, "quit") {
		t.Errorf("trace:\n%s", text)
	}
}

// Close wakes callers, writers and subscriptions, with events unread.
func TestCloseWakesAll(t *testing.T) {
	t.Parallel()
	quiet := greetingPeer(t, func(p *fakeConn) {
		p.send(strayEvent, strayEvent)
		p.drain()
	})
	c := dialTest(t, quiet)
	sub := c.Subscribe()
	errs := qmptest.Start(context.Background(), c.Execute, Command{Execute: "x"})
	waitPending(t, c, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	err := qmptest.Await(t, errs, "the woken caller")
	if !isUnknown(err) || !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	qmptest.AwaitClosed(t, sub.Events(), "the subscription")
}

func TestSplitAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string][]string{
		"/a/b": {"unix", "/a/b"}, "b.sock": {"unix", "b.sock"}, "unix:b:1": {"unix", "b:1"}, "./b:1": {"unix", "./b:1"},
		"localhost:1": {"tcp", "localhost:1"}, "tcp:[::1]:2": {"tcp", "[::1]:2"}, "[::1]:2": {"tcp", "[::1]:2"},
	} {
		network, target := splitAddress(address)
		if !slices.Equal(want, []string{network, target}) {
			t.Errorf("%s: %s %s", address, network, target)
		}
	}
}

// TestWriteFindsTheConnectionLost: a command that could not be written because the connection is lost ends
// the client at once, before the reader notices: a caller that gets ErrConnectionLost checks Done and dials
// again.
func TestWriteFindsTheConnectionLost(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	path := fakePeer(t, func(p *fakeConn) {
		p.send(fakeGreeting)
		c, _ := p.receive()
		_ = p.Conn.(*net.UnixConn).CloseRead() // the client's reader does not notice it
		p.send(reply(c.ID, "{}"))
		<-over
	})
	defer close(over)
	c := dialTest(t, path)
	_, err := c.Execute(qmptest.Context(t), Command{Execute: "x"})
	if isUnknown(err) || !errors.Is(err, ErrConnectionLost) {
		t.Errorf("the command ended with %v", err)
	}
	select {
	case <-c.Done():
	default:
		t.Error("the connection is reported as alive")
	}
}
