package memtest

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"testing"
)

var kept []byte

// A search finds a copy in each form.
func TestCopiesAreFound(t *testing.T) {
	s := Child()
	if s == nil {
		v := NewValue()
		v.Run(t)
		return
	}
	s.Nothing(t, "at first")
	for name, form := range map[string]func([]byte) []byte{
		"plain":  func(b []byte) []byte { return b },
		"hex":    func(b []byte) []byte { return hex.AppendEncode(nil, b) },
		"base64": func(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) },
		"a part": func(b []byte) []byte { return b[20:60] },
	} {
		value := s.Copy()
		kept = form(value)
		if len(s.find(t)) == 0 {
			t.Errorf("%s: not found", name)
		}
		clear(kept)
		clear(value)
	}
	if found := s.find(t); len(found) > 0 {
		t.Errorf("found %v without a copy (process %d)", found, os.Getpid())
	}
}
