package blockgraph

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// InvalidError means that a disk, or the VM that it is planned for, has values that
// are missing, unknown or contradict each other.
type InvalidError struct {
	// Element is the path of the element or attribute that the value has in XML,
	// such as "disk/driver@cache".
	Element string
	// Reason says what is wrong and, where it helps, what would be right.
	Reason string
	// Err is the cause, such as [ErrUnknownPool]; nil for most.
	Err error
}

func (e *InvalidError) Error() string { return message.Invalid(e.Element, 0, e.Reason) }
func (e *InvalidError) Unwrap() error { return e.Err }

// ErrUnknownPool means that a volume's storage pool was not passed to [Disk.Translate]: read its XML, or
// query libvirt for it, and call Translate again.
var ErrUnknownPool = errors.New("the storage pool is not known")

// ErrNoDescriptors means that only the VM's QEMU can open the disk: a storage daemon takes no descriptors.
var ErrNoDescriptors = errors.New("a storage daemon takes no descriptors")

// UnsupportedError means that the XML is valid for libvirt but uses something that this
// package does not support. Nothing in the XML is ignored, so the whole disk is refused.
type UnsupportedError struct {
	// Element is the path of the element or attribute, as in [InvalidError].
	Element string
	// Reason says what is not supported.
	Reason string
	// Err is the cause, such as [ErrNoDescriptors]; nil for most.
	Err error
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

func (e *UnsupportedError) Error() string {
	if e.Element == "" {
		return "unsupported: " + e.Reason
	}
	return "unsupported: " + message.Element(e.Element) + ": " + e.Reason
}

// PlacementError means that the VM has no place for the disk's device.
type PlacementError struct {
	// Target is the disk's target, such as "vdb".
	Target string
	// Reason says which location is missing or taken, and what to do.
	Reason string
}

func (e *PlacementError) Error() string { return "disk " + e.Target + ": " + e.Reason }

func invalid(element, reason string) error { return &InvalidError{Element: element, Reason: reason} }

func unsupported(element, reason string) error {
	return &UnsupportedError{Element: element, Reason: reason}
}

// rule is one check of a disk: if broken is true, refuse makes the error from element and reason.
type rule struct {
	broken          bool
	refuse          func(element, reason string) error
	element, reason string
}

// check returns the error of the first rule that is broken.
func check(rules []rule) error {
	for _, r := range rules {
		if r.broken {
			return r.refuse(r.element, r.reason)
		}
	}
	return nil
}

// quoted returns a value for a message.
func quoted[T ~string](value T) string { return strconv.Quote(message.Shorten(string(value))) }

func unknownPool(reason string) error {
	return &InvalidError{Element: "disk/source@pool", Reason: "Storage pool not found: " + reason, Err: ErrUnknownPool}
}

func (d *Disk) noPlace(format string, args ...any) error {
	return &PlacementError{Target: d.Target, Reason: fmt.Sprintf(format, args...)}
}
