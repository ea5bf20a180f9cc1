package qapi

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzAppendQuoted: the JSON has printable characters only, and decodes to the same text.
func FuzzAppendQuoted(f *testing.F) {
	for _, seed := range []string{"", "a", "\x1b\x7f\u009b\u202e\u2028\ufeff", "\U000e0041\U0010ffff", "日本 é 🙂", `"\\`, "\ufffd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip("it takes UTF-8 only")
		}
		got := string(AppendQuoted(nil, text))
		var back string
		if err := json.Unmarshal([]byte(got), &back); err != nil || back != text {
			t.Errorf("%q becomes %s, which is %q, %v", text, got, back, err)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("%q becomes %q", text, got)
		}
		if len(got) > 2+6*len(text) {
			t.Errorf("%q grows to %d bytes", text, len(got))
		}
		if again := AppendQuoted(nil, []byte(text)); string(again) != got {
			t.Errorf("of bytes: %q", again)
		}
	})
}
