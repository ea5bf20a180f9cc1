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

// Allocation returns the allocation of the guest's image.
func (g *Guest) Allocation() *Allocation {
	return &Allocation{image: g.image, size: g.size, qcow2: g.qcow2}
}

// Runs returns how often wipefs has run without an error.
func (s *Searches) Runs() int { return len(s.done) }
