package diskxml

import (
	"errors"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// XMLError means that a document is not valid: not XML, not the element that was
// asked for, an element or attribute that libvirt does not know either, or values
// that contradict each other.
type XMLError struct {
	// Element is the path of the element or attribute, such as
	// "disk/driver@cache". It is empty where the text as a whole is meant.
	Element string
	// Line is its line, from 1; 0 where it is not known.
	Line int
	// Reason says what is wrong and, where it helps, what would be right.
	Reason string
}

func (e *XMLError) Error() string { return message.Invalid(e.Element, e.Line, e.Reason) }

// locate returns an error of the disk's values with the line of what it is about.
func locate(err error, tree *element) error {
	var invalid *blockgraph.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	// <auth> and <encryption> may also stand under <disk> itself.
	for _, element := range []string{invalid.Element, strings.Replace(invalid.Element, "disk/source/", "disk/", 1)} {
		path, _, _ := strings.Cut(element, "@")
		if e := tree.find(path); e != nil {
			return &XMLError{Element: element, Line: e.line, Reason: invalid.Reason}
		}
	}
	return at(tree.line, err)
}

// at returns an error of values as one of the document's, at this line.
func at(line int, err error) error {
	var invalid *blockgraph.InvalidError
	if errors.As(err, &invalid) {
		return &XMLError{Element: invalid.Element, Line: line, Reason: invalid.Reason}
	}
	return err
}
