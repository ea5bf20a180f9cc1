package reencrypt

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/luksplug/luksplug/internal/duration"
)

// ErrWindow reports a text that is no [Window].
var ErrWindow = errors.New("not a time of day: give two times with a dash between them, such as 01:00-05:00 or 22:30-04:00, and commas between several")

// Window is a part of each day, by what the clock on the wall shows: 01:00-05:00 is open when it shows 01:00 or later, and
// less than 05:00, in the time zone of the time that is asked about. When clocks are changed, it is open for an hour less or
// more that day, twice if the hour repeats in which it ends, and not at all if the clock does not show it. Its zero value is
// always open.
type Window struct {
	spans []span
}

// span is the time from one time of day to another, since midnight; over midnight if to is not later than from.
type span struct{ from, to time.Duration }

const day = 24 * time.Hour

// ParseWindow reads one or more spans such as 01:00-05:00, separated by commas. A span whose end is earlier than its begin
// crosses midnight; 24:00 is possible as an end. The error wraps [ErrWindow]; "" is none.
func ParseWindow(text string) (Window, error) {
	var w Window
	for _, part := range strings.Split(text, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(part), "-")
		begin, ok1 := parseClock(from)
		end, ok2 := parseClock(to)
		if !ok || !ok1 || !ok2 || begin == day || begin == end {
			return Window{}, fmt.Errorf("%q: %w", text, ErrWindow)
		}
		w.spans = append(w.spans, span{begin, end})
	}
	return w, nil
}

// parseClock reads a time like 01:30, from 00:00 to 24:00.
func parseClock(text string) (time.Duration, bool) {
	if len(text) != len("00:00") || text[2] != ':' || strings.Trim(text[:2]+text[3:], "0123456789") != "" {
		return 0, false
	}
	hours, _ := strconv.Atoi(text[:2]) // two digits each
	minutes, _ := strconv.Atoi(text[3:])
	t := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	return t, minutes < 60 && t <= day
}

// String returns the text of the window, which [ParseWindow] reads; "" if it is always open.
func (w Window) String() string {
	var out []string
	for _, s := range w.spans {
		out = append(out, clock(s.from)+"-"+clock(s.to))
	}
	return strings.Join(out, ",")
}

func clock(t time.Duration) string {
	return fmt.Sprintf("%02d:%02d", t/time.Hour, t%time.Hour/time.Minute)
}

// wall returns the time that the clock shows, since midnight.
func wall(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
}

// Contains reports whether the window is open at t.
func (w Window) Contains(t time.Time) bool {
	at := wall(t)
	return len(w.spans) == 0 || slices.ContainsFunc(w.spans, func(s span) bool {
		if s.from < s.to {
			return s.from <= at && at < s.to
		}
		return s.from <= at || at < s.to
	})
}

// forever is how far the next opening and closing are looked for: every time of day is shown within two days.
const forever = 8 * day

// NextStart returns when the window opens: t if it is open, the first later time at which it is otherwise.
func (w Window) NextStart(t time.Time) time.Time {
	next, _ := w.until(t, true) // a span is shown on every day but one
	return next
}

// Remaining returns how long the window stays open, 0 if it is closed at t. It is [math.MaxInt64] for one that never closes.
func (w Window) Remaining(t time.Time) time.Duration {
	end, ends := w.until(t, false)
	if !ends {
		return math.MaxInt64
	}
	return end.Sub(t)
}

// until returns the first time from t on at which the window is open or closed, false for none.
func (w Window) until(t time.Time, open bool) (time.Time, bool) {
	for at := t; at.Sub(t) < forever; at = w.change(at) {
		if w.Contains(at) == open {
			return at, true
		}
	}
	return t, false
}

// change returns the first time after t at which the window can open or close: when the clock shows a begin or an end, or is
// changed.
func (w Window) change(t time.Time) time.Time {
	next := t.Add(day)
	for _, s := range w.spans {
		for _, edge := range []time.Duration{s.from, s.to} {
			// Until the clock is changed, its time passes like any other.
			if left := (edge - wall(t) + day) % day; left > 0 && t.Add(left).Before(next) {
				next = t.Add(left)
			}
		}
	}
	if _, end := t.ZoneBounds(); !end.IsZero() && end.Before(next) {
		next = end
	}
	return next.In(t.Location())
}

// ErrAge reports a text that is no age.
var ErrAge = errors.New("not an age: give a number with its unit, such as 90d, 12w or 36h")

// ParseAge reads an age: a number of days or weeks of 24 hours each, such as 90d or 12w, or a time that
// [duration.Parse] reads and that has a unit, such as 36h. The age is positive. The error wraps [ErrAge].
func ParseAge(text string) (time.Duration, error) {
	fail := fmt.Errorf("%q: %w", text, ErrAge)
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		number, is := strings.CutSuffix(text, suffix)
		if !is {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 || n > uint64(math.MaxInt64/unit) {
			return 0, fail
		}
		return time.Duration(n) * unit, nil
	}
	// A number alone would be seconds, and is probably a mistake.
	if strings.Trim(text, "+-.0123456789") == "" {
		return 0, fail
	}
	age, err := duration.Parse(text)
	if err != nil || age <= 0 {
		return 0, fail
	}
	return age, nil
}
