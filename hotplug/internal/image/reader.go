package image

import (
	"context"
	"io"

	"github.com/luksplug/luksplug/blockgraph"
)

// Reader reads what a guest would see of an image. A [Guest] reads a file or block
// device of this host; package remoteimage reads any other image through a storage
// daemon.
type Reader interface {
	io.ReaderAt
	io.Closer
	// Size is in bytes.
	Size() int64
}

// Opener opens an image for reading only. The caller closes the reader.
type Opener func(ctx context.Context, image blockgraph.Image) (Reader, error)
