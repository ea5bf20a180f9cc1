// Package duration reads times as people write them.
package duration

import (
	"errors"
	"strings"
	"time"
)

// ErrInvalid reports a text that is no duration.
var ErrInvalid = errors.New("not a time: give a number of seconds, or a time with its unit, such as 90s or 2m")

// Parse returns the duration that [time.ParseDuration] reads, and for a number without a unit as many seconds.
func Parse(text string) (time.Duration, error) {
	if text != "" && strings.Trim(text, "+-.0123456789") == "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, ErrInvalid
	}
	return d, nil
}
