package luks

import "io"

// Storage is where a header is stored, from its first byte on: a file, a block device, or a part of one. Sync returns once
// all that was written is stored durably. An [os.File] is one.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}
