package shell_test

import (
	"os/exec"
	"testing"

	"github.com/luksplug/luksplug/internal/shell"
)

func TestWord(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{"": "''", "/a-b_c.d:e=f+g,1": "/a-b_c.d:e=f+g,1", "~": "'~'", "it's": `'it'\''s'`, "é": "'é'", "a b": "'a b'"} {
		if got := shell.Word(s); got != want {
			t.Errorf("%q: got %s", s, got)
		}
	}
}

// TestShell: a shell reads back the quoted text.
func TestShell(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", " ", "it's", `"`, `\`, `'\''`, "$HOME", "`id`", "a\nb", "\n", "*", "~", "{a,b}", "a;b", "#a", "-", "\xff", "''"} {
		for _, quoted := range []string{shell.Quote(s), shell.Word(s)} {
			got, err := exec.Command("/bin/sh", "-c", "printf %s. "+quoted).Output()
			if err != nil || string(got) != s+"." {
				t.Errorf("%q as %s: got %q, %v", s, quoted, got, err)
			}
		}
	}
}
