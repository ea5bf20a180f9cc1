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

// Subscription receives events, in order, from the moment of Subscribe. Behind its channel is a queue without
// a bound, so that a listener that is slow, or never reads, delays neither replies nor other listeners.
type Subscription struct {
	names []string // none: all
	out   chan Event
	wake  chan struct{} // has a token when queue or ended changed
	stop  chan struct{} // closed by Close

	leave func() // removes the subscription from its hub

	mu     sync.Mutex
	queue  []Event
	ended  bool // the connection is lost: deliver the queue, then close
	closed bool
}

// Events returns the channel of events. It is closed by Close, by the client's
// Close, and, after the events that had arrived, by loss of the connection.
func (s *Subscription) Events() <-chan Event { return s.out }

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

func (s *Subscription) push(e Event) {
	s.mu.Lock()
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	s.poke()
}

// end lets the channel close once the queue is read.
func (s *Subscription) end() {
	s.mu.Lock()
	s.ended = true
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
		s.mu.Lock()
		batch, ended := s.queue, s.ended
		s.queue = nil
		s.mu.Unlock()
		for _, e := range batch {
			select {
			case s.out <- e:
			case <-s.stop:
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		if ended {
			return
		}
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
	}
}

// hub delivers each event to its subscriptions.
type hub struct {
	mu    sync.Mutex
	subs  map[*Subscription]struct{}
	ended bool
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
	if s.ended = h.ended; !h.ended {
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

func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		if s.wants(e.Event) {
			s.push(e)
		}
	}
}

// end accepts no more subscriptions and events. Existing subscriptions deliver their queues.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for s := range h.subs {
		s.end()
	}
}

// closeAll ends every subscription at once.
func (h *hub) closeAll() {
	h.end()
	h.mu.Lock()
	subs := slices.Collect(maps.Keys(h.subs)) // Close takes the lock
	h.mu.Unlock()
	for _, s := range subs {
		s.Close()
	}
}
