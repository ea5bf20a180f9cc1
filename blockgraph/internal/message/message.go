// Package message formats the errors of blockgraph and diskxml.
package message

import (
	"fmt"
	"strings"
)

// Invalid returns the text of an error about an element of a document, "" for the
// document as a whole; line is 0 where it is not known.
func Invalid(element string, line int, reason string) string {
	var b strings.Builder
	document, _, _ := strings.Cut(element, "/")
	if document != "domain" && document != "pool" && document != "volume" {
		document = "disk"
	}
	b.WriteString(document + " XML")
	if line > 0 {
		fmt.Fprintf(&b, " line %d", line)
	}
	if element != "" {
		b.WriteString(": " + Element(element))
	}
	b.WriteString(": " + reason)
	return b.String()
}

// Element returns the path of an element or attribute in the notation of XML:
// disk/driver@cache becomes <driver cache=...>, disk/source/auth becomes <auth> in
// <source>.
func Element(path string) string {
	path, attr, isAttr := strings.Cut(path, "@")
	parts := strings.Split(path, "/")
	name := parts[len(parts)-1]
	out := "<" + name + ">"
	if isAttr {
		out = "<" + name + " " + attr + "=...>"
	}
	if len(parts) > 2 {
		out += " in <" + parts[len(parts)-2] + ">"
	}
	return out
}

// Shorten returns s, cut to a length that leaves an error message readable.
func Shorten(s string) string {
	const limit = 40
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}
