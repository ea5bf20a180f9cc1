package similar_test

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/similar"
)

func TestMisspelt(t *testing.T) {
	t.Parallel()
	known := []string{"format", "dev", "encryption", "file", "discard_no_unref"}
	for word, want := range map[string]string{
		"fromat": "format", "formt": "format", "Format": "format", "frmt": "", "fomrta": "format", "deb": "dev", "debt": "",
		"encrpytoin": "encryption", "discard-no-unref": "discard_no_unref", "fil": "file", "pile": "file", "colour": "", strings.Repeat("x", 1000): "", "": "",
	} {
		if got := similar.Misspelt(word, known); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}
