package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/luksplug/luksplug/secrets/luks"
)

// progress shows on a terminal how far the unlocking of a header is, once it takes longer
// than patience. It is safe for concurrent use.
type progress struct {
	w     io.Writer // nil if there is no terminal
	begin time.Time

	mu    sync.Mutex
	shown bool
	ended bool
}

// newProgress returns a progress line on w, which shows nothing if w is not a terminal.
func newProgress(w io.Writer) *progress {
	p := &progress{begin: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

// patience is the time after which the progress line appears.
const patience = 300 * time.Millisecond

func (p *progress) update(u luks.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w == nil || p.ended || u.Total == 0 || time.Since(p.begin) < patience {
		return
	}
	p.shown = true
	_, _ = fmt.Fprintf(p.w, "\rluksplug: trying the passphrase, %d %% ", 100*u.Done/u.Total)
}

// end removes the line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown && !p.ended {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
	p.ended = true
}
