package diskxml

import (
	"errors"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// XMLError means that a document is not valid: it is not XML, has the wrong root
// element, an element or attribute that is unknown to libvirt, or values that
// contradict each other.
type XMLError struct {
	// Element is the path of the element or attribute, such as
	// "disk/driver@cache", "" for the document as a whole.
	Element string
	// Line is its line, from 1; 0 where it is not known.
	Line int
	// Reason says what is wrong and, where it helps, what would be right.
	Reason string
	// Err is the cause, such as [ErrNotOneDisk]; nil for most.
	Err error
}

func (e *XMLError) Error() string { return message.Invalid(e.Element, e.Line, e.Reason) }
func (e *XMLError) Unwrap() error { return e.Err }

// locate adds the line of the element to an error about the disk's values.
func locate(err error, tree *element) error {
	var invalid *blockgraph.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	// <auth> and <encryption> may also be under <disk> itself.
	for _, element := range []string{invalid.Element, strings.Replace(invalid.Element, "disk/source/", "disk/", 1)} {
		path, _, _ := strings.Cut(element, "@")
		if e := tree.find(path); e != nil {
			return &XMLError{Element: element, Line: e.line, Reason: invalid.Reason}
		}
	}
	return at(tree.line, err)
}

// at converts an error about values to one of the document, at this line.
func at(line int, err error) error {
	var invalid *blockgraph.InvalidError
	if errors.As(err, &invalid) {
		return &XMLError{Element: invalid.Element, Line: line, Reason: invalid.Reason}
	}
	return err
}
