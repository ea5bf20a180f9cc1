package main

import (
	"fmt"
	"time"
)

// watch records the longest time between two turns of something that should always have turns.
type watch struct {
	last    time.Time
	longest time.Duration
	turns   int
}

// turn records a turn.
func (w *watch) turn(now time.Time) {
	if !w.last.IsZero() {
		w.longest = max(w.longest, now.Sub(w.last))
		w.turns++
	}
	w.last = now
}

// report returns an answer: the gaps and turns since the last report.
func report(timer, disk *watch) string {
	line := fmt.Sprintln(timer.longest.Microseconds(), disk.longest.Microseconds(), timer.turns, disk.turns)
	*timer, *disk = watch{}, watch{}
	return line
}
