// Package printable makes text that others have written safe to print: the names, messages and files of QEMU,
// servers and tenants may hold sequences that control a terminal, reorder a line or begin another one.
//
// Printable characters (strconv.IsPrint) stay. All others are shown as Go writes them in a string: \n, \x1b,
// \u202e. These are control characters, DEL and C1 among them, characters without a width, such as those that
// change the direction of text, other spaces than the ASCII one, and bytes that are not UTF-8. A backslash stays
// single, so the result is for readers, and not to be parsed.
//
// Libraries keep names and messages as they are. Text is escaped where it leaves the program: on the terminal, in
// logs that are text, and in pictures. JSON is not escaped.
package printable

import (
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Line returns text for a place in one line: line breaks and tabs are escaped as well.
func Line(text string) string { return escape(text, "") }

// Text returns text of several lines: line breaks and tabs stay.
func Text(text string) string { return escape(text, "\n\t") }

func escape(text, keep string) string {
	clean := func(r rune, size int) bool {
		invalid := r == utf8.RuneError && size == 1
		return !invalid && (strconv.IsPrint(r) || strings.ContainsRune(keep, r))
	}
	var out strings.Builder
	copied := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if !clean(r, size) {
			out.WriteString(text[copied:i])
			quoted := strconv.Quote(text[i : i+size])
			out.WriteString(quoted[1 : len(quoted)-1])
			copied = i + size
		}
		i += size
	}
	if copied == 0 {
		return text
	}
	out.WriteString(text[copied:])
	return out.String()
}

// Writer writes [Text] to another writer. A character must not be split between two writes.
type Writer struct{ Raw io.Writer }

// Write implements [io.Writer].
func (w Writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.Raw, Text(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
