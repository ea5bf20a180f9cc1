package render_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/render"
)

// nasty are arguments that break incorrect quoting.
var nasty = []string{
	"", " ", "a b", "it's", `"`, `\`, `'\''`, "$HOME", "`id`", "$(id)", "a\nb", "\n", "a\\\nb", "*", "?", "[a]", "~", "~root", "{a,b}", "a;b", "a&b", "a|b", "<a", ">a",
	"#a", "!a", "a=b", "-", "--", "é", "日本", "\u200b", "\x01\x7f", "\xff\xfe", "\t", "\r", "%s", "a,b", "''", "'", "''''",
}

func FuzzQuoteArguments(f *testing.F) {
	for _, s := range nasty {
		f.Add(s, "-x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		args := []string{"-first", a, b, a + b}
		if strings.ContainsRune(a+b, 0) {
			t.Skip("no argument holds a NUL")
		}
		got, err := splitWords(render.QuoteArguments(args))
		if err != nil || !slices.Equal(got, args) {
			t.Errorf("got  %q %v\nwant %q", got, err, args)
		}
	})
}

// splitWords reads words as a POSIX shell does, where they hold nothing but
// plain characters, single quotes and backslashes. Every other character that
// means something to a shell is an error.
func splitWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'':
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return nil, errors.New("an open quotation")
			}
			word.WriteString(text[i+1 : i+1+end])
			i += end + 1
			begun = true
		case c == '\\' && i+1 < len(text):
			i++
			if text[i] != '\n' { // a backslash and a new line are removed
				word.WriteByte(text[i])
				begun = true
			}
		case c == ' ' || c == '\n':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
			if c == '\n' && i != len(text)-1 {
				return nil, errors.New("a second command")
			}
		case strings.IndexByte("\\\"$`*?[]~{};&|<>()#!\t\r%^", c) >= 0 || c < 0x20 || c >= 0x7f:
			return nil, errors.New("a bare " + string(rune(c)))
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	return words, nil
}

// TestShellReadsArguments uses a real shell.
func TestShellReadsArguments(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	args := append([]string{"-first"}, nasty...)
	script := "printf '%s\\0' " + render.QuoteArguments(args)
	cmd := exec.CommandContext(t.Context(), shell, "-c", script)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, args) {
		t.Errorf("got  %q\nwant %q", got, args)
	}
}
