package reencrypt_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/internal/must"
)

// zone is one with daylight saving time, whose rules are its own: 02:00 becomes 03:00 on 2026-03-29, and 03:00 becomes
// 02:00 on 2026-10-25.
func zone(t testing.TB) *time.Location {
	t.Helper()
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err) // no time zones are installed
	}
	return l
}

func window(t testing.TB, text string) reencrypt.Window {
	t.Helper()
	return must.Get(reencrypt.ParseWindow(text))(t)
}

func TestParseWindow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"01:00-05:00": "01:00-05:00", "22:30-04:00": "22:30-04:00", "00:00-24:00": "00:00-24:00", "22:00-24:00": "22:00-24:00", "22:00-00:00": "22:00-00:00",
		"01:00-02:00,12:30-13:30": "01:00-02:00,12:30-13:30", "01:00-02:00, 12:30-13:30 ": "01:00-02:00,12:30-13:30",
	} {
		if got, err := reencrypt.ParseWindow(text); err != nil || got.String() != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", ",", "01:00", "01:00-", "-05:00", "1:00-5:00", "01:00-05:60", "25:00-05:00", "24:00-05:00", "01:00-24:01", "01:00-01:00", "24:00-24:00",
		"01:00-05:00,", "01:00-05:00 UTC", "0100-0500", "01:00–05:00", "+1:00-05:00", "01:00-05:00-06:00", "01.00-05.00", "aa:bb-cc:dd", "01:00 - 05:00",
	} {
		if got, err := reencrypt.ParseWindow(text); !errors.Is(err, reencrypt.ErrWindow) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// TestWindow: whether a window is open, when it opens, and for how long.
func TestWindow(t *testing.T) {
	t.Parallel()
	berlin := zone(t)
	for _, c := range []struct {
		name, window, at, opens string
		remaining               time.Duration
	}{
		{"before", "01:00-05:00", "2026-06-10 00:30:00 +0200", "2026-06-10 01:00:00 +0200", 0},
		{"at the begin", "01:00-05:00", "2026-06-10 01:00:00 +0200", "2026-06-10 01:00:00 +0200", 4 * time.Hour},
		{"in it", "01:00-05:00", "2026-06-10 04:59:59 +0200", "2026-06-10 04:59:59 +0200", time.Second},
		{"at the end", "01:00-05:00", "2026-06-10 05:00:00 +0200", "2026-06-11 01:00:00 +0200", 0},
		{"over midnight, before", "22:30-04:00", "2026-06-10 20:30:00 +0200", "2026-06-10 22:30:00 +0200", 0},
		{"over midnight, in the evening", "22:30-04:00", "2026-06-10 23:00:00 +0200", "2026-06-10 23:00:00 +0200", 5 * time.Hour},
		{"over midnight, in the morning", "22:30-04:00", "2026-06-10 03:00:00 +0200", "2026-06-10 03:00:00 +0200", time.Hour},
		{"until midnight", "22:00-24:00", "2026-06-10 23:30:00 +0200", "2026-06-10 23:30:00 +0200", 30 * time.Minute},
		{"until midnight, written otherwise", "22:00-00:00", "2026-06-10 23:30:00 +0200", "2026-06-10 23:30:00 +0200", 30 * time.Minute},
		{"until midnight, after", "22:00-24:00", "2026-06-10 00:00:00 +0200", "2026-06-10 22:00:00 +0200", 0},
		{"between two", "01:00-02:00,12:00-13:00", "2026-06-10 05:00:00 +0200", "2026-06-10 12:00:00 +0200", 0},
		{"in the second", "01:00-02:00,12:00-13:00", "2026-06-10 12:15:00 +0200", "2026-06-10 12:15:00 +0200", 45 * time.Minute},
		{"two that touch", "01:00-02:00,02:00-03:00", "2026-06-10 01:30:00 +0200", "2026-06-10 01:30:00 +0200", 90 * time.Minute},
		{"two that overlap", "01:00-02:30,02:00-03:00", "2026-06-10 01:30:00 +0200", "2026-06-10 01:30:00 +0200", 90 * time.Minute},
		{"all day", "00:00-24:00", "2026-06-10 01:30:00 +0200", "2026-06-10 01:30:00 +0200", math.MaxInt64},
		{"all day in two parts", "06:00-18:00,18:00-06:00", "2026-06-10 01:30:00 +0200", "2026-06-10 01:30:00 +0200", math.MaxInt64},

		// 01:59 is followed by 03:00.
		{"spring, an hour less", "01:00-05:00", "2026-03-29 01:00:00 +0100", "2026-03-29 01:00:00 +0100", 3 * time.Hour},
		{"spring, the begin is not shown", "02:30-05:00", "2026-03-29 01:30:00 +0100", "2026-03-29 03:00:00 +0200", 0},
		{"spring, the end is not shown", "01:00-02:30", "2026-03-29 01:30:00 +0100", "2026-03-29 01:30:00 +0100", 30 * time.Minute},
		{"spring, none of it is shown", "02:00-03:00", "2026-03-29 00:30:00 +0100", "2026-03-30 02:00:00 +0200", 0},
		{"spring, all day", "00:00-24:00", "2026-03-29 00:30:00 +0100", "2026-03-29 00:30:00 +0100", math.MaxInt64},
		{"spring, over midnight", "23:00-04:00", "2026-03-28 23:00:00 +0100", "2026-03-28 23:00:00 +0100", 4 * time.Hour},
		{"spring, the next day", "12:00-13:00", "2026-03-28 12:30:00 +0100", "2026-03-28 12:30:00 +0100", 30 * time.Minute},

		// 02:59 is followed by 02:00.
		{"autumn, an hour more", "01:00-05:00", "2026-10-25 01:00:00 +0200", "2026-10-25 01:00:00 +0200", 5 * time.Hour},
		{"autumn, it ends in the hour that repeats", "01:00-02:30", "2026-10-25 02:00:00 +0200", "2026-10-25 02:00:00 +0200", 30 * time.Minute},
		{"autumn, and opens again", "01:00-02:30", "2026-10-25 02:45:00 +0200", "2026-10-25 02:00:00 +0100", 0},
		{"autumn, the second time", "01:00-02:30", "2026-10-25 02:10:00 +0100", "2026-10-25 02:10:00 +0100", 20 * time.Minute},
		{"autumn, it begins in the hour that repeats", "02:30-05:00", "2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0200", 30 * time.Minute},
		{"autumn, it is closed until 02:30 comes again", "02:30-05:00", "2026-10-25 02:10:00 +0100", "2026-10-25 02:30:00 +0100", 0},
		{"autumn, the hour itself", "02:00-03:00", "2026-10-25 02:00:00 +0200", "2026-10-25 02:00:00 +0200", 2 * time.Hour},
	} {
		at := must.Get(time.Parse("2006-01-02 15:04:05 -0700", c.at))(t).In(berlin)
		opens := must.Get(time.Parse("2006-01-02 15:04:05 -0700", c.opens))(t)
		w := window(t, c.window)
		if got := w.Remaining(at); got != c.remaining {
			t.Errorf("%s: %s at %s: %s remain, want %s", c.name, w, at, got, c.remaining)
		}
		if got := w.NextStart(at); !got.Equal(opens) || got.Location() != berlin {
			t.Errorf("%s: %s at %s: it opens at %s, want %s", c.name, w, at, got, opens.In(berlin))
		}
		if got := w.Contains(at); got != (c.remaining > 0) {
			t.Errorf("%s: %s at %s: open %v", c.name, w, at, got)
		}
	}
}

// TestWindowAlways: without a window it is always open.
func TestWindowAlways(t *testing.T) {
	t.Parallel()
	var w reencrypt.Window
	at := time.Date(2026, 6, 10, 1, 2, 3, 4, time.UTC)
	if !w.Contains(at) || w.Remaining(at) != math.MaxInt64 || !w.NextStart(at).Equal(at) || w.String() != "" {
		t.Errorf("%v, %s, %s, %q", w.Contains(at), w.Remaining(at), w.NextStart(at), w)
	}
}

// TestWindowMinutes compares every answer of the two days around each change of the clocks, minute by minute, with the definition.
func TestWindowMinutes(t *testing.T) {
	t.Parallel()
	berlin := zone(t)
	for _, text := range []string{"01:00-05:00", "02:15-02:45", "22:00-02:30", "02:30-02:15", "00:00-02:00,02:30-04:00"} {
		w := window(t, text)
		for _, begin := range []time.Time{time.Date(2026, 3, 28, 12, 0, 0, 0, berlin), time.Date(2026, 10, 24, 12, 0, 0, 0, berlin)} {
			// From the end, so that each answer follows from the next one.
			const minutes = 4 * 24 * 60
			opens, closes := -1, -1
			for n := minutes; n >= 0; n-- {
				at := begin.Add(time.Duration(n) * time.Minute)
				if w.Contains(at) {
					opens = n
				} else {
					closes = n
				}
				if n > minutes/2 {
					continue // an answer beyond the end may be missing
				}
				if got := w.NextStart(at); !got.Equal(begin.Add(time.Duration(opens) * time.Minute)) {
					t.Fatalf("%s at %s: it opens at %s", text, at, got)
				}
				if got := w.Remaining(at); got != time.Duration(closes-n)*time.Minute {
					t.Fatalf("%s at %s: %s remain, want %d minutes", text, at, got, closes-n)
				}
			}
		}
	}
}

func TestParseAge(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{"90d": 90 * day, "12w": 84 * day, "36h": 36 * time.Hour, "1d": day, "1h30m": 90 * time.Minute, "106751d": 106751 * day} {
		if got, err := reencrypt.ParseAge(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "90", "0d", "-1d", "+1d", "1.5d", "1d12h", "0h", "-3h", "106752d", "99999999999999999999d", "15251w", "4294967297d", "old", "90 d", "1e3h"} {
		if got, err := reencrypt.ParseAge(text); !errors.Is(err, reencrypt.ErrAge) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	f.Add("01:00-05:00,22:30-04:00", int64(1774746000))
	f.Add("02:15-02:45", int64(1792890000))
	f.Fuzz(func(t *testing.T, text string, seconds int64) {
		w, err := reencrypt.ParseWindow(text)
		if err != nil {
			if !errors.Is(err, reencrypt.ErrWindow) {
				t.Fatal(err)
			}
			return
		}
		again, err := reencrypt.ParseWindow(w.String())
		if err != nil || again.String() != w.String() {
			t.Fatalf("%q became %q: %v", w, again, err)
		}
		at := time.Unix(seconds%(1<<33), 0).In(zone(t))
		open, remaining := w.Contains(at), w.Remaining(at)
		if open != (remaining > 0) || again.Contains(at) != open {
			t.Fatalf("%q at %s: open %v, %s remain", w, at, open, remaining)
		}
		if next := w.NextStart(at); !w.Contains(next) || next.Before(at) || open != next.Equal(at) {
			t.Fatalf("%q at %s: opens at %s", w, at, next)
		}
		if remaining != math.MaxInt64 && w.Contains(at.Add(remaining)) {
			t.Fatalf("%q at %s: still open after %s", w, at, remaining)
		}
	})
}
