// Package shell quotes text for a POSIX shell ("2.2.2 Single-Quotes" of the
// Shell Command Language). A NUL byte has no representation there.
package shell

import "strings"

// Quote returns s in single quotes: one word that a shell reads back as s.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Word returns s as one word that a shell reads back as s, in quotes only if
// needed: for human-readable commands.
func Word(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=+,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return Quote(s)
}
