package qmp

import (
	"maps"
	"slices"
	"sync"
)

// Event is something that QEMU reports on its own (qmp-spec.rst, "Asynchronous events").
// All subscriptions share Data: do not change it. JSON numbers in it are float64.
type Event struct {
	Event     string         `json:"event"` // its name, for example "DEVICE_DELETED"
	Data      map[string]any `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"` // to be added to Seconds
	} `json:"timestamp"`
}

// The bounds of a subscription's queue. QEMU sends some 200 bytes an event, and a few events a command.
const (
	queuedEvents = 4096
	queuedBytes  = 4 << 20 // of the events' JSON; an event alone may be larger
)

// Subscription receives events, in order, from the moment of Subscribe. Behind its channel is a queue, so that
// a listener that is slow, or never reads, delays neither replies nor other listeners.
//
// The queue holds 4096 events, of 4 MiB together. Beyond that the subscription ends: the channel delivers the
// queue and is closed, and Err is [ErrEventsLost]. No event is dropped from the middle, so a listener that waits
// for one event never waits in vain: it queries QEMU for what exists, and subscribes again.
type Subscription struct {
	names []string // none: all
	out   chan Event
	wake  chan struct{} // has a token when queue or ended changed
	stop  chan struct{} // closed by Close

	leave func() // removes the subscription from its hub

	mu     sync.Mutex
	queue  []queuedEvent
	bytes  int   // of the queue
	ended  error // why nothing is added any more: deliver the queue, then close
	closed bool
}

type queuedEvent struct {
	event Event
	size  int
}

// Events returns the channel of events. It is closed by Close, by the client's
// Close, and, after the events that had arrived, by loss of the connection or of events.
func (s *Subscription) Events() <-chan Event { return s.out }

// Err returns why the channel is closed, or will be after the events that had arrived: [ErrEventsLost], or the
// client's Err. It is nil until then, and after Close.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Close ends the subscription and drops what has not been read. It may be
// called more than once, from any goroutine.
func (s *Subscription) Close() {
	s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
}

func (s *Subscription) wants(name string) bool {
	return len(s.names) == 0 || slices.Contains(s.names, name)
}

// push adds an event of that size. It reports false if there is no room: then the subscription has ended.
func (s *Subscription) push(e Event, size int) bool {
	s.mu.Lock()
	full := len(s.queue) >= queuedEvents || len(s.queue) > 0 && s.bytes+size > queuedBytes
	if !full {
		s.queue = append(s.queue, queuedEvent{e, size})
		s.bytes += size
	}
	s.mu.Unlock()
	if full {
		s.end(ErrEventsLost)
		return false
	}
	s.poke()
	return true
}

// end lets the channel close once the queue is read. The first cause counts.
func (s *Subscription) end(cause error) {
	s.mu.Lock()
	if s.ended == nil && !s.closed {
		s.ended = cause
	}
	s.mu.Unlock()
	s.poke()
}

func (s *Subscription) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it already has a token
	}
}

// deliver moves events from the queue to the channel until the end.
func (s *Subscription) deliver() {
	defer close(s.out)
	for {
		e, found, ended := s.pop()
		switch {
		case found:
			select {
			case s.out <- e:
			case <-s.stop:
				return
			}
		case ended:
			return
		default:
			select {
			case <-s.wake:
			case <-s.stop:
				return
			}
		}
	}
}

// pop takes the oldest event. Without one, it reports whether the subscription has ended.
func (s *Subscription) pop() (e Event, found, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		return Event{}, false, s.ended != nil
	}
	first := s.queue[0]
	s.queue[0] = queuedEvent{} // the array outlives it
	s.queue, s.bytes = s.queue[1:], s.bytes-first.size
	return first.event, true, false
}

// hub delivers each event to its subscriptions.
type hub struct {
	mu    sync.Mutex
	subs  map[*Subscription]struct{}
	ended error // why the connection has ended
}

func (h *hub) subscribe(names []string) *Subscription {
	s := &Subscription{
		names: slices.Clone(names),
		out:   make(chan Event),
		wake:  make(chan struct{}, 1),
		stop:  make(chan struct{}),
	}
	s.leave = func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, s)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.ended = h.ended; h.ended == nil {
		if h.subs == nil {
			h.subs = make(map[*Subscription]struct{})
		}
		h.subs[s] = struct{}{}
	}
	go s.deliver()
	return s
}

// wanted reports whether any subscription listens for events of this name.
func (h *hub) wanted(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		if s.wants(name) {
			return true
		}
	}
	return false
}

// publish delivers an event whose JSON has about size bytes.
func (h *hub) publish(e Event, size int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		if s.wants(e.Event) && !s.push(e, size) {
			delete(h.subs, s)
		}
	}
}

// end accepts no more subscriptions and events. Existing subscriptions deliver their queues.
func (h *hub) end(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.ended = cause
	}
	for s := range h.subs {
		s.end(h.ended)
	}
}

// closeAll ends every subscription at once.
func (h *hub) closeAll(cause error) {
	h.end(cause)
	h.mu.Lock()
	subs := slices.Collect(maps.Keys(h.subs)) // Close takes the lock
	h.mu.Unlock()
	for _, s := range subs {
		s.Close()
	}
}
