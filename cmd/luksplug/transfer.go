package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/luksplug/luksplug/hotplug/volume"
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
}

// transferJSON is the progress of an operation in JSON.
type transferJSON struct {
	Progress string  `json:"progress"` // the operation
	Done     int64   `json:"done"`     // bytes
	Total    int64   `json:"total"`
	Rate     float64 `json:"rate"`          // bytes a second, since the beginning
	ETA      float64 `json:"eta,omitempty"` // seconds; missing if it is unknown
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
func (t *transfer) update(p volume.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	passed := now.Sub(t.begin)

	if p.Total <= 0 || passed < patience {
		return
	}
	if t.bars != nil {
		t.show(p)
		return
	}
	if now.Sub(t.shown) < time.Second {
		return
	}
	t.shown = now
	line := transferJSON{Progress: t.operation, Done: p.Done, Total: p.Total, Rate: float64(p.Done) / passed.Seconds()}
	if line.Rate > 0 {
		line.ETA = float64(p.Total-p.Done) / line.Rate
	}
	_, _ = io.WriteString(t.w, line.text(t.json)) // a progress line is worth no error
}

// show updates the bar.
func (t *transfer) show(p volume.Progress) {
	if t.bar == nil {
		t.bar = t.bars.AddBar(p.Total, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name("luksplug: "+t.operation+" ")),
			mpb.AppendDecorators(decor.Percentage(), decor.AverageSpeed(decor.SizeB1024(0), " % .1f"), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	t.bar.SetCurrent(p.Done)
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
	text := fmt.Sprintf("luksplug: %s: %s of %s, %s/s", p.Progress, size(p.Done), size(p.Total), size(int64(p.Rate)))
	if p.ETA > 0 {
		text += fmt.Sprintf(", %s left", time.Duration(p.ETA*float64(time.Second)).Round(time.Second))
	}
	return text + "\n"
}

// end removes the bar.
func (t *transfer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bars == nil {
		return
	}
	if t.bar != nil {
		t.bar.Abort(true)
	}
	t.bars.Wait()
}
