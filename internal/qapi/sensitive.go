package qapi

import (
	"fmt"
	"io"
	"log/slog"
)

// Sensitive is a string argument that is real on the wire only. Every other rendering of it is "[redacted]":
// all verbs of fmt, JSON, text, slog and logrus. Its zero value is not usable: encoding it is an error.
type Sensitive struct {
	// A function, because reflection (fmt on an unexported field of a foreign struct, a debugging dumper)
	// prints it as an address. A byte slice or string in its place would be printed in full.
	get func() []byte
}

// NewSensitive wraps value, which must be valid UTF-8 (in practice base64) and is sent as a JSON string. The
// slice is kept, not copied, so that its owner can wipe it; that must not happen before the Execute that
// carries it has returned. Nothing reads value after that.
func NewSensitive(value []byte) Sensitive {
	return Sensitive{get: func() []byte { return value }}
}

// Format writes "[redacted]" for every verb and flag.
func (s Sensitive) Format(state fmt.State, _ rune) {
	// A fmt.State's writer does not fail, and Format could not report it.
	_, _ = io.WriteString(state, Redacted)
}

// String returns "[redacted]".
func (s Sensitive) String() string { return Redacted }

// GoString returns "[redacted]".
func (s Sensitive) GoString() string { return Redacted }

// MarshalText returns "[redacted]".
func (s Sensitive) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON returns the JSON string "[redacted]".
func (s Sensitive) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// LogValue returns "[redacted]" to log/slog.
func (s Sensitive) LogValue() slog.Value { return slog.StringValue(Redacted) }
