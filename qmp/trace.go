package qmp

import (
	"sync"
	"time"
)

// Direction is the direction of a traced message.
type Direction int

const (
	// Sent is a command, on its way to QEMU.
	Sent Direction = iota + 1
	// Received is a reply, the greeting among them.
	Received
	// Occurred is an event.
	Occurred
)

// String returns "sent", "received" or "event".
func (d Direction) String() string {
	if d < Sent || d > Occurred {
		return "unknown direction"
	}
	return [...]string{Sent: "sent", Received: "received", Occurred: "event"}[d]
}

// TraceEntry is one message, for WithTrace's function.
type TraceEntry struct {
	Direction Direction
	Time      time.Time
	// JSON is the message without its newline. Sensitive values are "[redacted]", in a command and in its
	// reply. A reply that came after its caller had left is reduced to {"late":true,"id":N} if the command
	// carried a secret, because the secret is no longer available for scrubbing.
	JSON []byte
}

// TraceFunc receives the messages of one client, one at a time, in order. It runs within the traffic: it
// should return soon, and must not call the client. It may keep the entry.
type TraceFunc func(TraceEntry)

// tracer serialises the calls to a TraceFunc. A nil tracer is silent.
type tracer struct {
	mu sync.Mutex
	fn TraceFunc
}

func (t *tracer) on() bool { return t != nil }

// entry reports text, which must be redacted, and must not be used afterwards.
func (t *tracer) entry(d Direction, text []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fn(TraceEntry{Direction: d, Time: time.Now(), JSON: text})
}
