package qmp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// allocated returns how many bytes f allocates, garbage included. Tests that use it do not run in parallel.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// inUse returns the bytes of the heap that are in use.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// endless begins with a text and repeats another until the client is gone.
func endless(p *fakeConn, begin, again string) {
	chunk := bytes.Repeat([]byte(again), 64<<10/len(again))
	_, err := p.Write([]byte(begin))
	for err == nil {
		_, err = p.Write(chunk)
	}
}

// TestLineBound: a line without an end, in the greeting, a reply, an error and an event, ends the connection at the
// bound, and what the client allocates is of its order. The client's default and another bound.
func TestLineBound(t *testing.T) {
	for name, begin := range map[string]string{
		"greeting": `{"QMP":{"version":{"package":"`,
		"reply":    `{"return":"`,
		"error":    `{"error":{"class":"GenericError","desc":"`,
		"event":    `{"event":"`,
		"blanks":   "  ",
		"pretty":   "{\n  \"return\": {\n  ",
		"text":     "QEMU 10.0 monitor",
	} {
		for _, limit := range []int{0, 100 << 10} {
			bound := limit
			if limit == 0 {
				bound = DefaultLineLimit
			}
			t.Run(fmt.Sprintf("%s, %d bytes", name, bound), func(t *testing.T) {
				path := fakePeer(t, func(p *fakeConn) {
					if name == "greeting" || p.greet() {
						endless(p, begin, " x")
					}
				})
				var err error
				took := allocated(func() {
					var c *Client
					if c, err = Dial(qmptest.Context(t), path, WithLineLimit(limit)); err == nil {
						defer qmptest.Close(t, c)
						_, err = c.Execute(qmptest.Context(t), Command{Execute: "x"})
						if !errors.Is(err, ErrConnectionLost) {
							t.Errorf("the connection has not ended: %v", err)
						}
					}
				})
				if !errors.Is(err, ErrMessageTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(bound)) {
					t.Errorf("%v", err)
				}
				t.Logf("%d bytes were allocated", took)
				// A line that grows is copied; 1 MiB is for everything else.
				if most := uint64(8*bound + 1<<20); took > most {
					t.Errorf("%d bytes were allocated for a bound of %d", took, bound)
				}
			})
		}
	}
}

// TestLineBoundOfTransports: the bound holds over TCP and TLS.
func TestLineBoundOfTransports(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer server.Close()
	client := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	for name, wrap := range map[string]func(near, far net.Conn) (net.Conn, net.Conn){
		"TCP": func(near, far net.Conn) (net.Conn, net.Conn) { return near, far },
		"TLS": func(near, far net.Conn) (net.Conn, net.Conn) {
			return tls.Client(near, client), tls.Server(far, &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS13})
		},
	} {
		t.Run(name, func(t *testing.T) {
			listener := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
			defer qmptest.Close(t, listener)
			near := must.Get(net.Dial("tcp", listener.Addr().String()))(t)
			far := must.Get(listener.Accept())(t)
			ours, theirs := wrap(near, far)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				endless(&fakeConn{Conn: theirs}, `{"QMP":"`, "x")
			}()
			if _, err := NewConn(qmptest.Context(t), ours, WithLineLimit(1<<20)); !errors.Is(err, ErrMessageTooLarge) {
				t.Errorf("%v", err)
			}
			qmptest.AwaitDone(t, ended)
			_ = far.Close() // the client has closed the other end
		})
	}
}

// TestLineBoundHolds: a message of exactly the bound is taken, one of a byte more is not.
func TestLineBoundHolds(t *testing.T) {
	t.Parallel()
	const limit = 200 << 10
	for _, more := range []int{0, 1} {
		path := greetingPeer(t, func(p *fakeConn) {
			c, _ := p.receive()
			frame := len(reply(c.ID, `""`))
			p.send(reply(c.ID, `"`+strings.Repeat("x", limit-frame+more)+`"`))
			p.drain()
		})
		c := dialTest(t, path, WithLineLimit(limit))
		if _, err := c.Execute(qmptest.Context(t), Command{Execute: "x"}); (err == nil) != (more == 0) {
			t.Errorf("%d bytes more than the bound: %v", more, err)
		}
	}
}

// TestShapeBound: a message that is nested too deep, or takes many times its length in memory, ends the connection
// before it is decoded.
func TestShapeBound(t *testing.T) {
	for name, value := range map[string]string{
		"arrays":       strings.Repeat("[", 5_000_000) + strings.Repeat("]", 5_000_000),
		"objects":      strings.Repeat(`{"a":`, 1100) + "1" + strings.Repeat("}", 1100),
		"many objects": "[{}" + strings.Repeat(",{}", 5_000_000) + "]",
		"many numbers": "[1" + strings.Repeat(",1", 5_000_000) + "]",
	} {
		t.Run(name, func(t *testing.T) {
			path := greetingPeer(t, func(p *fakeConn) {
				c, _ := p.receive()
				p.send(reply(c.ID, value))
				p.drain()
			})
			c := dialTest(t, path)
			var err error
			took := allocated(func() { _, err = c.Execute(qmptest.Context(t), Command{Execute: "x"}) })
			if !errors.Is(err, ErrMessageTooLarge) {
				t.Errorf("%v", err)
			}
			t.Logf("%d bytes were allocated", took)
			if took > 10*DefaultLineLimit {
				t.Error("that is not of the order of the bound")
			}
		})
	}
	deep := `{"return":` + strings.Repeat(`[{"]]":"\"]"},`, 900) + "1" + strings.Repeat("]", 900) + "}"
	if err := oneMessage([]byte(deep), DefaultLineLimit); err != nil {
		t.Errorf("900 levels, with brackets in strings: %v", err)
	}
}

// TestErrorTextBound: the text of an error is shortened after secrets are removed from it, so that no part of one
// is left at the cut.
func TestErrorTextBound(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0L3ZhbHVl"
	path := greetingPeer(t, func(p *fakeConn) {
		c, _ := p.receive()
		p.send(fmt.Sprintf(`{"error":{"class":"GenericError","desc":"%s%s%s"},"id":%d}`,
			strings.Repeat("x", longestText-len(secret)/2), secret, strings.Repeat("y", 1<<20), c.ID))
		p.drain()
	})
	c := dialTest(t, path)
	_, err := c.Execute(qmptest.Context(t), command("object-add", "data", NewSensitive([]byte(secret))))
	refusal, ok := qmptest.ErrorAs[*Error](err)
	if !ok || len(refusal.Description) > longestText+100 || !strings.HasSuffix(refusal.Description, " bytes more)") {
		t.Errorf("%.200v ...", err)
	}
	if strings.Contains(err.Error(), secret[:4]) {
		t.Error("a part of the secret is left")
	}
}

// TestEventFlood: tens of thousands of unread events take no more memory than the queue may, delay no
// reply, and end the subscription that was to receive them, and no other.
func TestEventFlood(t *testing.T) {
	const events = 60_000
	flood := strings.Repeat(`{"event":"RESUME","data":{"x":"`+strings.Repeat("y", 100)+`"},"timestamp":{"seconds":1,"microseconds":1}}`+"\n", 100)
	path := greetingPeer(t, func(p *fakeConn) {
		c, _ := p.receive()
		for range events / 100 {
			if _, err := p.Write([]byte(flood)); err != nil {
				return
			}
		}
		p.send(strayEvent, reply(c.ID, `"mine"`))
		p.drain()
	})
	before := inUse()
	c := dialTest(t, path)
	flooded, other := c.Subscribe("RESUME"), c.Subscribe("STRAY")
	defer flooded.Close()
	defer other.Close()
	if value, err := c.Execute(qmptest.Context(t), Command{Execute: "x"}); err != nil || string(value) != `"mine"` {
		t.Errorf("%s, %v", value, err)
	}
	after := inUse()
	t.Logf("%d bytes of the heap are in use after the flood, %d before", after, before)
	if after > before+4*queuedBytes {
		t.Error("the flood fills the heap")
	}
	qmptest.Await(t, other.Events(), "the event after the flood")
	if err := other.Err(); err != nil {
		t.Errorf("the other subscription: %v", err)
	}
	if err := flooded.Err(); !errors.Is(err, ErrEventsLost) {
		t.Errorf("the flooded subscription: %v", err)
	}
	read := 0
	for range flooded.Events() {
		read++
	}
	if read < queuedEvents || read > queuedEvents+1 { // one may have been on its way
		t.Errorf("%d events were delivered", read)
	}
}

// TestEventFloodOfBytes: the queue is bounded in bytes as well, except for an event alone.
func TestEventFloodOfBytes(t *testing.T) {
	t.Parallel()
	var h hub
	s := h.subscribe(nil)
	defer s.Close()
	big := Event{Event: "BIG"}
	h.publish(big, 2*queuedBytes)
	qmptest.Await(t, s.Events(), "the event")
	for range 20 {
		h.publish(big, queuedBytes/8)
	}
	if err := s.Err(); !errors.Is(err, ErrEventsLost) || s.bytes > queuedBytes {
		t.Errorf("%d bytes, %v", s.bytes, err)
	}
}

// TestEndlessFlood: a peer that sends events for ever, before its greeting or instead of a reply, holds no caller
// beyond its context.
func TestEndlessFlood(t *testing.T) {
	t.Parallel()
	for name, greets := range map[string]bool{"no greeting": false, "no reply": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fakePeer(t, func(p *fakeConn) {
				if !greets || p.greet() {
					endless(p, "", strayEvent+"\n")
				}
			})
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			c, err := Dial(ctx, path)
			if greets {
				if err != nil {
					t.Fatal(err)
				}
				sub := c.Subscribe("STRAY")
				defer sub.Close()
				_, err = c.Execute(ctx, Command{Execute: "x"})
				qmptest.Close(t, c)
			}
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 10*time.Second {
				t.Errorf("%v after %s", err, time.Since(begin))
			}
		})
	}
}

// TestSubscriptionTellsWhyItEnded: by the loss of the connection, by the client's Close, and by its own.
func TestSubscriptionTellsWhyItEnded(t *testing.T) {
	t.Parallel()
	path := greetingPeer(t, func(p *fakeConn) { _, _ = p.receive() })
	lost, closed := dialTest(t, path), dialTest(t, path)
	first, second, own := lost.Subscribe(), closed.Subscribe(), closed.Subscribe()
	own.Close()
	_, _ = lost.Execute(qmptest.Context(t), Command{Execute: "x"}) // after which the peer ends the connection
	qmptest.Close(t, closed)
	for _, c := range []struct {
		sub  *Subscription
		want error
	}{{first, ErrConnectionLost}, {second, ErrClosed}, {own, nil}, {lost.Subscribe(), ErrConnectionLost}} {
		qmptest.AwaitClosed(t, c.sub.Events(), "the subscription")
		if err := c.sub.Err(); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

// TestSchemaOfManyObjects: a schema whose alternates have two branches that need a search of their own is no
// schema of QEMU's, and would take the power of their number.
func TestSchemaOfManyObjects(t *testing.T) {
	t.Parallel()
	const schema = `[{"name":"x","meta-type":"command","arg-type":"o"},{"name":"o","meta-type":"object","members":[{"name":"m","type":"a"}]},` +
		`{"name":"p","meta-type":"object","members":[{"name":"m","type":"a"}]},{"name":"a","meta-type":"alternate","members":[{"type":"o"},{"type":"p"}]}]`
	if _, err := ParseSchema([]byte(schema)); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "two branches") {
		t.Errorf("%v", err)
	}
}
