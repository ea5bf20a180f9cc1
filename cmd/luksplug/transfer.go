package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/printable"
)

// transfer shows on standard error how far an operation with many bytes is, once it takes longer than patience: a bar on a
// terminal; otherwise a line a second, which is a JSON object with --output json.
type transfer struct {
	operation string
	w         io.Writer
	bars      *mpb.Progress // nil without a terminal
	json      bool
	now       func() time.Time

	mu    sync.Mutex
	bar   *mpb.Bar // nil before patience ends
	begin time.Time
	shown time.Time
	phase string
	// resumed is set for an operation that an earlier run has begun: first is what that had done.
	resumed bool
	first   int64
	ended   bool

	// last is what the bar shows beside itself. Its goroutine must not wait for mu, under which the bar is updated.
	last atomic.Pointer[transferJSON]
}

// transferJSON is the progress of an operation in JSON.
type transferJSON struct {
	Progress string  `json:"progress"` // the operation
	Done     int64   `json:"done"`     // bytes
	Total    int64   `json:"total"`
	Rate     float64 `json:"rate"`          // bytes a second, since the beginning
	ETA      float64 `json:"eta,omitempty"` // seconds; missing if it is unknown
	Phase    string  `json:"phase,omitempty"`
}

// transfer begins to show the progress of an operation. Its update is a [volume.Report]; end is called after the operation.
func (a *app) transfer(operation string) *transfer {
	w := raw(a.err)
	t := &transfer{operation: operation, w: w, json: a.flags.output == "json", now: time.Now}
	if !t.json && isTerminal(w) {
		t.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithAutoRefresh())
	}
	t.begin = t.now()
	return t
}

// update implements [volume.Report].
func (t *transfer) update(p volume.Progress) { t.updatePhase(p, "") }

// updatePhase is update for an operation with phases. Another phase is shown at once.
func (t *transfer) updatePhase(p volume.Progress, phase string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	passed := now.Sub(t.begin)
	if t.resumed && t.phase == "" {
		t.first = p.Done
	}
	changed := phase != t.phase
	t.phase = phase
	if p.Total <= 0 || passed < patience {
		return
	}
	line := transferJSON{Progress: t.operation, Done: p.Done, Total: p.Total, Phase: phase, Rate: max(0, float64(p.Done-t.first)/passed.Seconds())}
	if line.Rate > 0 {
		line.ETA = float64(p.Total-p.Done) / line.Rate
	}
	if t.bars != nil {
		t.last.Store(&line)
		t.show(p)
		return
	}
	if now.Sub(t.shown) < time.Second && !changed {
		return
	}
	t.shown = now
	_, _ = io.WriteString(t.w, line.text(t.json)) // a progress line is worth no error
}

// show updates the bar.
func (t *transfer) show(p volume.Progress) {
	if t.bar == nil {
		t.bar = t.bars.AddBar(p.Total, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name("luksplug: "+t.operation+" ")),
			mpb.AppendDecorators(decor.Percentage(), decor.Any(func(decor.Statistics) string { return " " + t.last.Load().besides() })))
	}
	t.bar.SetTotal(p.Total, false)           // that of a copy grows
	t.bar.SetCurrent(min(p.Done, p.Total-1)) // a complete bar cannot go on
}

// say writes a line above the bar.
func (t *transfer) say(a *app, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bars == nil || t.ended {
		_ = a.note(format, args...) // it is only a note
		return
	}
	_, _ = fmt.Fprintf(t.bars, "luksplug: %s\n", printable.Line(fmt.Sprintf(format, args...)))
}

// text returns a line of progress.
func (p transferJSON) text(asJSON bool) string {
	if asJSON {
		b, err := json.Marshal(p)
		if err != nil {
			return ""
		}
		return string(b) + "\n"
	}
	return fmt.Sprintf("luksplug: %s: %s of %s, %s\n", p.Progress, size(p.Done), size(p.Total), p.besides())
}

// besides returns the rate, the time that is left, and the phase.
func (p transferJSON) besides() string {
	text := size(int64(p.Rate)) + "/s"
	if p.ETA > 0 {
		text += fmt.Sprintf(", %s left", time.Duration(p.ETA*float64(time.Second)).Round(time.Second))
	}
	if p.Phase != "" {
		text += ", " + p.Phase
	}
	return text
}

// end removes the bar. It may be repeated.
func (t *transfer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bars == nil || t.ended {
		return
	}
	t.ended = true
	if t.bar != nil {
		t.bar.Abort(true)
	}
	t.bars.Wait()
}
