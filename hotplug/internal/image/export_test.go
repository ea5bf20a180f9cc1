package image

import (
	"io"

	"github.com/luksplug/luksplug/secrets/luks"
)

// NewQcow2Guest reads a qcow2 image from anywhere, for fuzzing without files.
func NewQcow2Guest(r io.ReaderAt) (*Guest, error) {
	h, err := readQcow2(r, luks.ReadHeader)
	if err != nil {
		return nil, err
	}
	return &Guest{image: r, data: r, size: h.VirtualSize, qcow2: h}, nil
}

// Runs returns how often wipefs has run without an error.
func (s *Searches) Runs() int { return len(s.done) }
