package blockgraph

import (
	"fmt"
	"strings"
)

// XMLError says that the disk's XML (or, from [ParseDomain], the domain's) is
// not valid: not XML, not a <disk>, an element that libvirt does not know
// either, or values that contradict each other.
type XMLError struct {
	// Element is the path of the element or attribute, such as
	// "disk/driver@cache". It is empty where the text as a whole is meant.
	Element string
	// Line is where it stands, counted from 1; 0 when that is not known.
	Line int
	// Reason says what is wrong and, where it helps, what would be right.
	Reason string
}

func (e *XMLError) Error() string {
	var b strings.Builder
	document := "disk"
	if strings.HasPrefix(e.Element, "domain") {
		document = "domain"
	}
	b.WriteString(document + " XML")
	if e.Line > 0 {
		fmt.Fprintf(&b, " line %d", e.Line)
	}
	if e.Element != "" {
		b.WriteString(": ")
		b.WriteString(display(e.Element))
	}
	b.WriteString(": ")
	b.WriteString(e.Reason)
	return b.String()
}

// UnsupportedError says that the XML is valid libvirt XML, and asks for
// something that this package does not do. Nothing in the XML is ignored, so
// the disk is refused as a whole.
type UnsupportedError struct {
	// Element is the path of the element or attribute, as in XMLError.
	Element string
	// Reason says what is not supported.
	Reason string
}

func (e *UnsupportedError) Error() string {
	if e.Element == "" {
		return "unsupported: " + e.Reason
	}
	return "unsupported: " + display(e.Element) + ": " + e.Reason
}

// PlacementError says that the VM has no place for the disk's device.
type PlacementError struct {
	// Target is the disk's target, such as "vdb".
	Target string
	// Reason says which place is missing or taken, and what to do.
	Reason string
}

func (e *PlacementError) Error() string { return "disk " + e.Target + ": " + e.Reason }

// display writes an element's path the way people read XML: disk/driver@cache
// becomes <driver cache=...> in <disk>.
func display(path string) string {
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
