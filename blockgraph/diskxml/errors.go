package diskxml

import "github.com/luksplug/luksplug/blockgraph/internal/message"

// XMLError says that a document is not valid: not XML, not the element that was
// asked for, an element or attribute that libvirt does not know either, or values
// that contradict each other.
type XMLError struct {
	// Element is the path of the element or attribute, such as
	// "disk/driver@cache". It is empty where the text as a whole is meant.
	Element string
	// Line is where it stands, counted from 1; 0 when that is not known.
	Line int
	// Reason says what is wrong and, where it helps, what would be right.
	Reason string
}

func (e *XMLError) Error() string { return message.Invalid(e.Element, e.Line, e.Reason) }
