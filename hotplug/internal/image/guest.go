package image

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Guest reads an image as a guest would: the bytes of a raw image, the content of a qcow2
// image. It may be read concurrently. It caches nothing, and is meant for a few sectors.
type Guest struct {
	image io.ReaderAt
	size  int64
	qcow2 *Qcow2Header // nil: raw
	data  io.ReaderAt  // where the qcow2 clusters are: image, or the external data file; nil if that is not read
	files []io.Closer
}

// OpenGuest opens the image for reading in the given format: [Raw], [LUKS], which reads the
// encrypted bytes, or [Qcow2]. It does not probe. The caller closes the guest.
//
// Errors are those of [Probe]. They wrap [ErrUnsupported] for other formats and for an
// encrypted qcow2 image. data is the external data file of a qcow2 image that has one, ""
// if it is not to be read. No file that only the image names is opened: the error of
// reading wraps ErrUnsupported for data in a backing file, or in a data file without data.
func OpenGuest(path string, format Format, data string) (*Guest, error) {
	if format != Raw && format != LUKS && format != Qcow2 {
		return nil, fmt.Errorf("%s: %w: format %q", path, ErrUnsupported, format)
	}
	f, _, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	g := &Guest{image: f, data: f, files: []io.Closer{f}}
	switch err = checkComplete(f); {
	case err != nil:
	case format == Qcow2:
		err = g.openQcow2(data)
	default:
		g.size, err = size(f)
	}
	if err != nil {
		fsutil.CloseRead(g)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return g, nil
}

func (g *Guest) openQcow2(path string) error {
	start, err := readUpTo(g.image, 0, probeLen)
	if err != nil {
		return err
	}
	if format(start) != Qcow2 {
		return fmt.Errorf("%w: it has no qcow2 magic", ErrDamaged)
	}
	if g.qcow2, err = readQcow2(g.image, luks.ReadHeader); err != nil {
		return err
	}
	if g.qcow2.Crypt != CryptNone {
		return fmt.Errorf("%w: qcow2 encrypted by %s cannot be read without its key", ErrUnsupported, g.qcow2.Crypt)
	}
	g.size = g.qcow2.VirtualSize
	if !g.qcow2.HasDataFile {
		return nil
	}
	g.data = nil
	if path == "" {
		return nil
	}
	data, _, err := open(path, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("external data file: %w", err)
	}
	g.data = data
	g.files = append(g.files, data)
	return nil
}

// Size returns the size of the guest's disk in bytes.
func (g *Guest) Size() int64 { return g.size }

// Close closes the files.
func (g *Guest) Close() error {
	var err error
	for _, f := range g.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// ReadAt implements [io.ReaderAt].
func (g *Guest) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at the negative offset %d", off)
	}
	if g.qcow2 == nil {
		return g.image.ReadAt(p, off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= g.size {
			return done, io.EOF
		}
		unit := g.unit()
		part := p[done:]
		part = part[:min(int64(len(part)), unit-at%unit, g.size-at)]
		if err := g.readUnit(part, at); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// unit returns how many bytes are allocated together: a cluster, or one of its 32
// subclusters.
func (g *Guest) unit() int64 {
	if g.qcow2.extendedL2 {
		return g.qcow2.ClusterSize / 32
	}
	return g.qcow2.ClusterSize
}

// Parts of L1 and L2 entries (docs/interop/qcow2.rst, "Cluster mapping").
const (
	entryOffset     = 0x00fffffffffffe00
	entryCopied     = 1 << 63
	entryCompressed = 1 << 62
	entryZero       = 1 << 0
)

// readUnit fills p, which lies within one unit, with the guest's bytes at off.
func (g *Guest) readUnit(p []byte, off int64) error {
	h := g.qcow2
	perL2 := h.ClusterSize / h.l2EntrySize()
	cluster := off / h.ClusterSize
	l1, err := g.entry(h.l1Offset + cluster/perL2*8)
	if err != nil {
		return err
	}
	l2Offset := int64(l1 & entryOffset)
	if l2Offset == 0 {
		return g.unallocated(p, off)
	}
	if l2Offset%h.ClusterSize != 0 {
		return fmt.Errorf("%w: an L2 table at offset %d, which is no cluster's", ErrDamaged, l2Offset)
	}
	at := l2Offset + cluster%perL2*h.l2EntrySize()
	entry, err := g.entry(at)
	if err != nil {
		return err
	}
	if entry&entryCompressed != 0 {
		return g.readCompressed(p, entry, off%h.ClusterSize)
	}
	host := int64(entry & entryOffset)
	// Offset 0 is a cluster only in an external data file.
	allocated := host != 0 || h.HasDataFile && entry&entryCopied != 0
	zero := h.Version >= 3 && entry&entryZero != 0
	if h.extendedL2 {
		bitmap, err := g.entry(at + 8)
		if err != nil {
			return err
		}
		sub := off % h.ClusterSize / g.unit()
		allocated = bitmap>>sub&1 != 0
		zero = bitmap>>(32+sub)&1 != 0
	}
	switch {
	case zero:
		clear(p)
		return nil
	case !allocated:
		return g.unallocated(p, off)
	case host%h.ClusterSize != 0:
		return fmt.Errorf("%w: a cluster at offset %d, which is no cluster's", ErrDamaged, host)
	case g.data == nil:
		return fmt.Errorf("%w: what the guest sees at offset %d is in the external data file %q", ErrUnsupported, off, h.DataFile)
	}
	got, err := readUpTo(g.data, host+off%h.ClusterSize, len(p))
	if err != nil {
		return err
	}
	clear(p[copy(p, got):]) // a file may end inside its last cluster
	return nil
}

func (g *Guest) unallocated(p []byte, off int64) error {
	if g.qcow2.HasBacking {
		return fmt.Errorf("%w: what the guest sees at offset %d is in the backing file %q", ErrUnsupported, off, g.qcow2.BackingFile)
	}
	clear(p)
	return nil
}

func (g *Guest) entry(off int64) (uint64, error) {
	b, err := readUpTo(g.image, off, 8)
	if err != nil {
		return 0, err
	}
	if len(b) < 8 {
		return 0, fmt.Errorf("%w: it ends before the table entry at offset %d", ErrDamaged, off)
	}
	return binary.BigEndian.Uint64(b), nil
}

// readCompressed fills p with the bytes at off of a compressed cluster.
func (g *Guest) readCompressed(p []byte, entry uint64, off int64) error {
	h := g.qcow2
	if h.zstd {
		return fmt.Errorf("%w: clusters compressed by zstd", ErrUnsupported)
	}
	// "Compressed Clusters Descriptor": the x low bits are the offset in bytes, the bits
	// from there to 61 the number of further 512-byte sectors.
	clusterBits := bits.TrailingZeros64(uint64(h.ClusterSize))
	x := 62 - (clusterBits - 8)
	host := int64(entry & (1<<x - 1))
	sectors := int64(entry&(1<<62-1)>>x) + 1
	length := sectors*512 - host%512
	packed, err := readUpTo(g.image, host, int(min(length, 2*h.ClusterSize)))
	if err != nil {
		return err
	}
	unpacked := flate.NewReader(bytes.NewReader(packed))
	defer fsutil.CloseRead(unpacked)
	_, err = io.CopyN(io.Discard, unpacked, off)
	if err == nil {
		_, err = io.ReadFull(unpacked, p)
	}
	if err != nil {
		return fmt.Errorf("%w: a compressed cluster at offset %d: %w", ErrDamaged, host, err)
	}
	return nil
}
