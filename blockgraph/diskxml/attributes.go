package diskxml

import (
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

func notDefault(value string) string {
	if value == "default" {
		return ""
	}
	return value
}

// number reads an attribute that the grammar has checked to be a number; a
// missing one is 0.
func number(e *element, attr string) uint {
	n, _ := strconv.ParseUint(e.attr(attr), 10, 31) // checked before
	return uint(n)
}

func readSwitch(e *element, attr string, s *blockgraph.Switch) error {
	*s = blockgraph.Switch(e.attr(attr))
	return oneOf(e, attr, string(blockgraph.On), string(blockgraph.Off))
}

// oneOf refuses an attribute with a value that is not one of the words.
func oneOf(e *element, attr string, words ...string) error {
	if v := e.attr(attr); v != "" && !slices.Contains(words, v) {
		return e.invalid(attr, "unknown value %q: use %s", message.Shorten(v), strings.Join(words, ", "))
	}
	return nil
}

// decimal reads a decimal number.
func decimal(e *element, attr string) (uint64, error) {
	n, err := strconv.ParseUint(e.attr(attr), 10, 63)
	if err != nil {
		return 0, e.invalid(attr, "malformed value %q: use decimal digits", message.Shorten(e.attr(attr)))
	}
	return n, nil
}

// numbers reads the numeric attributes of e and keeps the first error.
type numbers struct {
	e   *element
	err error
}

// get reads a number in C notation (0x hexadecimal, leading 0 octal, decimal);
// a missing one is 0.
func (n *numbers) get(name string, limit uint64) uint {
	text := n.e.attr(name)
	if text == "" {
		return 0
	}
	v, err := strconv.ParseUint(text, 0, 32)
	if (err != nil || v > limit) && n.err == nil {
		n.err = n.e.invalid(name, "%q is no number from 0 to %d", message.Shorten(text), limit)
	}
	return uint(v)
}
