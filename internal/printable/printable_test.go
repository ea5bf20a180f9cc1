package printable_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/luksplug/luksplug/internal/printable"
)

// TestLine: printable text stays, and everything else is shown.
func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                         "",
		"/images/vdb.img":          "/images/vdb.img",
		"Datei „äöü“ 日本 🙂":         "Datei „äöü“ 日本 🙂",
		`C:\disks "a"`:             `C:\disks "a"`,
		"a\nb\tc\rd":               `a\nb\tc\rd`,
		"\x1b[2J\x1b]0;t\x07":      `\x1b[2J\x1b]0;t\a`,
		"\x00\x7f":                 `\x00\x7f`,
		"\u009b2J\u0085":           `\u009b2J\u0085`,
		"a\u202egmi.img\u2066":     `a\u202egmi.img\u2066`,
		"\u200b\ufeff\u00a0\u2028": `\u200b\ufeff\u00a0\u2028`,
		"\xff\xc0\x80a\xe2\x82":    `\xff\xc0\x80a\xe2\x82`,
		"\ufffd":                   "\ufffd",
		"\U000e0041":               `\U000e0041`,
	} {
		if got := printable.Line(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	if got := printable.Text("a\tb\n\x1b\r\n"); got != "a\tb\n\\x1b\\r\n" {
		t.Errorf("%q", got)
	}
}

// TestWriter: what is written is escaped, and counts as written whole.
func TestWriter(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if n, err := fmt.Fprintf(printable.Writer{Raw: &out}, "disk %s\n", "\x1b[31mvdb"); err != nil || n != 14 {
		t.Errorf("%d, %v", n, err)
	}
	if out.String() != "disk \\x1b[31mvdb\n" {
		t.Errorf("%q", out.String())
	}
}

func FuzzLine(f *testing.F) {
	for _, seed := range []string{"a", "\x1b[0m", "\u202e", "\xff", "é\n", `\x1b`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := printable.Line(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("%q becomes %q", text, got)
		}
		if printable.Line(got) != got {
			t.Errorf("%q is escaped twice", text)
		}
	})
}
