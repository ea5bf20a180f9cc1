package render

import (
	"strings"

	"github.com/luksplug/luksplug/internal/shell"
)

// QuoteArguments joins arguments into text that a POSIX shell reads back as
// the same arguments: one option and its value a line, continued by
// backslashes.
func QuoteArguments(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteString(" \\\n")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(shell.Word(a))
	}
	b.WriteByte('\n')
	return b.String()
}
