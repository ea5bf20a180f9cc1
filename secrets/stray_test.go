package secrets

import "testing"

func TestStray(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"": "", "a": "", "a\nb": "", " a": "",
		"a\n": "ends in a newline", "\n": "ends in a newline", "a\r\n": "ends in a carriage return and a newline", "a\r": "ends in a carriage return",
		"\xef\xbb\xbfa": "begins with a byte order mark", "\xff\xfea\x00": "begins with the byte order mark of UTF-16", "a\x00": "ends in a NUL byte",
		"a ": "ends in a space", "a\t": "ends in a tab",
	} {
		if got := New([]byte(value)).Stray(); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
	wiped := New([]byte("a\n"))
	wiped.Wipe()
	if got := wiped.Stray(); got != "" {
		t.Errorf("a wiped secret %s", got)
	}
}
