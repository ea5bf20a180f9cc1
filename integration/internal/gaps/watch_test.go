package main

import (
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	t.Parallel()
	var timer, disk watch
	at := time.Now()
	after := func(ms int) time.Time { return at.Add(time.Duration(ms) * time.Millisecond) }
	for _, ms := range []int{0, 2, 40, 41} { // the first turn ends no gap
		timer.turn(after(ms))
	}
	disk.turn(after(0))
	disk.turn(after(3))
	if got, want := report(&timer, &disk), "38000 3000 3 1\n"; got != want {
		t.Errorf("report %q, want %q", got, want)
	}
	timer.turn(after(90)) // the time of the answer does not count
	timer.turn(after(92))
	if got, want := report(&timer, &disk), "2000 0 1 0\n"; got != want {
		t.Errorf("the next report is %q, want %q: only what came after the first", got, want)
	}
}
