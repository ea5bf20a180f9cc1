package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// Stored is what an image has of a part of the guest's disk.
type Stored int

// The values.
const (
	StoredData    Stored = iota // bytes
	StoredZeros                 // nothing, and zeros are read, also beyond the end
	StoredNothing               // nothing: the image below it is read, or zeros if there is none
)

// Allocation finds which parts of the guest's disk an image stores, as QEMU does (block_status): it reads the tables of a
// qcow2 image, also of an encrypted one, and asks the file system for holes of a raw one. It needs no key, and reads no data.
// QEMU writes the tables of an image that it has open with a delay. Not for concurrent use.
type Allocation struct {
	f     *os.File
	image io.ReaderAt // f
	size  int64
	block bool
	qcow2 *Qcow2Header // nil: raw

	// The table that was read last, and where it is; 0 for none.
	table   []byte
	tableAt int64
}

// OpenAllocation opens an image of the format [Raw] or [Qcow2]. It does not probe. Errors are those of [Probe]. The caller
// closes the allocation.
func OpenAllocation(path string, format Format) (*Allocation, error) {
	f, stat, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	a := &Allocation{f: f, image: f, block: isBlock(stat.Mode())}
	switch format {
	case Raw:
		a.size, err = size(f)
	case Qcow2:
		if a.qcow2, err = ReadQcow2(f); err == nil {
			a.size = a.qcow2.VirtualSize
		}
	default:
		err = fmt.Errorf("%w: format %q", ErrUnsupported, format)
	}
	if err != nil {
		fsutil.CloseRead(f)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// Close closes the image.
func (a *Allocation) Close() { fsutil.CloseRead(a.f) }

// At returns what the image has at an offset, and for how many bytes that is so at least, from 1 on.
func (a *Allocation) At(off int64) (Stored, int64, error) {
	switch {
	case off < 0:
		return 0, 0, fmt.Errorf("the negative offset %d", off)
	case off >= a.size:
		return StoredZeros, math.MaxInt64 - off, nil
	case a.qcow2 != nil:
		return a.clusters(off)
	case a.block:
		return StoredData, a.size - off, nil
	}
	data, err := unix.Seek(int(a.f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return StoredZeros, a.size - off, nil
	case err != nil: // a file system that does not know holes
		return StoredData, a.size - off, nil
	case data > off:
		return StoredZeros, min(data, a.size) - off, nil
	}
	hole, err := unix.Seek(int(a.f.Fd()), off, unix.SEEK_HOLE)
	if err != nil || hole <= off {
		hole = a.size // it was changed meanwhile
	}
	return StoredData, min(hole, a.size) - off, nil
}

// clusters is [Allocation.At] for a qcow2 image. It looks at one L2 table.
func (a *Allocation) clusters(off int64) (Stored, int64, error) {
	h := a.qcow2
	perL2 := h.ClusterSize / h.l2EntrySize()
	cluster := off / h.ClusterSize
	left := perL2 - cluster%perL2 // clusters of this table
	limit := min(a.size-off, left*h.ClusterSize-off%h.ClusterSize)
	l1, err := (&Guest{image: a.image}).entry(h.l1Offset + cluster/perL2*8)
	if err != nil {
		return 0, 0, err
	}
	at := int64(l1 & entryOffset)
	switch {
	case at == 0:
		return StoredNothing, limit, nil
	case at%h.ClusterSize != 0:
		return 0, 0, fmt.Errorf("%w: an L2 table at offset %d, which is no cluster's", ErrDamaged, at)
	case at != a.tableAt:
		table, err := readUpTo(a.image, at, int(h.ClusterSize))
		if err != nil {
			return 0, 0, err
		}
		if int64(len(table)) < h.ClusterSize {
			return 0, 0, fmt.Errorf("%w: it ends before the L2 table at offset %d", ErrDamaged, at)
		}
		a.table, a.tableAt = table, at
	}
	unit := (&Guest{qcow2: h}).unit()
	first := a.entry(off)
	length := unit - off%unit
	for length < limit && a.entry(off+length) == first {
		length += unit
	}
	return first, min(length, limit), nil
}

// entry returns what the entry of an offset says. Its table was read.
func (a *Allocation) entry(off int64) Stored {
	h := a.qcow2
	at := off / h.ClusterSize % (h.ClusterSize / h.l2EntrySize()) * h.l2EntrySize()
	entry := binary.BigEndian.Uint64(a.table[at:])
	if entry&entryCompressed != 0 {
		return StoredData
	}
	allocated := entry&entryOffset != 0 || h.HasDataFile && entry&entryCopied != 0
	zero := h.Version >= 3 && entry&entryZero != 0
	if h.extendedL2 {
		bitmap := binary.BigEndian.Uint64(a.table[at+8:])
		sub := off % h.ClusterSize / (h.ClusterSize / 32)
		allocated = bitmap>>sub&1 != 0
		zero = bitmap>>(32+sub)&1 != 0
	}
	switch {
	case zero:
		return StoredZeros
	case allocated:
		return StoredData
	}
	return StoredNothing
}
