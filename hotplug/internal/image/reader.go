package image

import (
	"context"
	"io"

	"github.com/luksplug/luksplug/blockgraph"
)

// Reader reads an image as a guest would: a [Guest] reads one of this host, package
// remoteimage any other one through a storage daemon.
type Reader interface {
	io.ReaderAt
	io.Closer
	// Size is in bytes.
	Size() int64
}

// Opener opens an image for reading only. The caller closes the reader.
type Opener func(ctx context.Context, image blockgraph.Image) (Reader, error)
