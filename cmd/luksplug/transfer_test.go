package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8"

	"github.com/luksplug/luksplug/hotplug/volume"
)

// TestTransfer: a line a second, not earlier than patience, with rate and remaining time.
func TestTransfer(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	p := &transfer{operation: "preallocating", w: &out, now: func() time.Time { return now }, begin: now}
	for _, step := range []struct {
		after time.Duration
		done  int64
		shown string
	}{
		{100 * time.Millisecond, 1 << 20, ""}, // patience
		{900 * time.Millisecond, 100 << 20, "luksplug: preallocating: 100 MiB of 300 MiB, 100 MiB/s, 2s left\n"},
		{500 * time.Millisecond, 150 << 20, ""}, // a line a second
		{500 * time.Millisecond, 300 << 20, "luksplug: preallocating: 300 MiB of 300 MiB, 150 MiB/s\n"},
	} {
		now = now.Add(step.after)
		out.Reset()
		p.update(volume.Progress{Done: step.done, Total: 300 << 20})
		if out.String() != step.shown {
			t.Errorf("%d bytes: %q", step.done, &out)
		}
	}
	out.Reset()
	p.json, p.shown = true, time.Time{}
	p.update(volume.Progress{Done: 100 << 20, Total: 300 << 20})
	var got transferJSON
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || strings.Count(out.String(), "\n") != 1 ||
		got != (transferJSON{"preallocating", 100 << 20, 300 << 20, 50 << 20, 4, ""}) {
		t.Errorf("JSON: %q, %v", &out, err)
	}
	p.end()
}

// TestTransferBar: a bar on a terminal, which is removed in the end.
func TestTransferBar(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Now()
	p := &transfer{operation: "preallocating", w: &out, now: func() time.Time { return now }, begin: now.Add(-time.Hour), bars: mpb.New(mpb.WithOutput(&out), mpb.WithAutoRefresh())}
	p.update(volume.Progress{Done: 1 << 20, Total: 4 << 20})
	p.end()
	if p.bar == nil || !p.bar.Aborted() {
		t.Errorf("no bar, or one that runs on: %q", &out)
	}
}
