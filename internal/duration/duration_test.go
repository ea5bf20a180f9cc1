package duration_test

import (
	"errors"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/duration"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"5": 5 * time.Second, "0": 0, "1.5": 1500 * time.Millisecond, "-1": -time.Second, "5s": 5 * time.Second, "2m": 2 * time.Minute, "1h30m": 90 * time.Minute,
	} {
		if got, err := duration.Parse(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "soon", "5 s", "1h30", "-", ".", "1-2", "99999999999999999999", "5d"} {
		if got, err := duration.Parse(text); !errors.Is(err, duration.ErrInvalid) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}
