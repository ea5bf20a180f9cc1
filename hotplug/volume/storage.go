package volume

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets/luks"
)

// durable is a file or block device as a [luks.Storage]: after Sync, reads are those of the storage.
type durable struct{ *os.File }

// Sync stores what was written, and drops it from the kernel's cache.
func (d durable) Sync() error {
	if err := d.File.Sync(); err != nil {
		return err
	}
	_ = unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED) // a file system may not support it
	return nil
}

// part is a part of a storage. It does not grow.
type part struct {
	luks.Storage
	offset, length int64
}

// ReadAt implements [io.ReaderAt].
func (p part) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.Storage, p.offset, p.length).ReadAt(b, off)
}

// WriteAt implements [io.WriterAt].
func (p part) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > p.length || int64(len(b)) > p.length-off {
		return 0, fmt.Errorf("%w: %d bytes at %d of a header of %d", io.ErrShortWrite, len(b), off, p.length)
	}
	return p.Storage.WriteAt(b, p.offset+off)
}

// output is a file or block device that becomes a part of the volume.
type output interface {
	// read calls do with it.
	read(do func(io.ReaderAt) error) error
	// publish gives it its name and attributes.
	publish() error
	// remove makes it as it was before, and returns what is left if that is not possible.
	remove() []string
}

// newFile is a file that is being made: a [file], or one of a test in which the host loses power.
type newFile interface {
	output
	// write calls do with the file, to change it.
	write(do func(growing) error) error
	// qcow2 makes it a qcow2 image, see [file.qcow2].
	qcow2(ctx context.Context, r Request, header []byte) error
	// preallocate reserves or writes all of the file.
	preallocate(ctx context.Context, p Preallocation, report Report) error
	// noCOW switches off copy-on-write for the empty file. The error wraps errNoCOW if its file system cannot.
	noCOW() error
}

// growing is a storage with a size.
type growing interface {
	luks.Storage
	Truncate(size int64) error
}

// beginning begins a new file, as [begin] does.
type beginning func(path string, a attributes, replaces fs.FileInfo) (newFile, error)

// fill writes the beginning of a new file of size bytes, and stores it. Chunks of zeros become holes: most of a header are
// unused key slots.
func fill(f newFile, beginning []byte, size int64) error {
	return f.write(func(g growing) error {
		for off := 0; off < len(beginning); off += fillChunk {
			chunk := beginning[off:min(off+fillChunk, len(beginning))]
			if len(bytes.TrimLeft(chunk, "\x00")) == 0 {
				continue
			}
			if _, err := g.WriteAt(chunk, int64(off)); err != nil {
				return err
			}
		}
		if err := g.Truncate(size); err != nil {
			return err
		}
		return g.Sync()
	})
}

// fillChunk is the unit of fill, in bytes.
const fillChunk = 64 << 10
