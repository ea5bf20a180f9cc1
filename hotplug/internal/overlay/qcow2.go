package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/luksplug/luksplug/secrets/luks"
)

// The layout. Cluster size and width of a refcount are QEMU's defaults.
const (
	clusterBits     = 16
	clusterSize     = 1 << clusterBits
	refcountOrder   = 4 // 2^4 bits
	refcountBytes   = 1 << refcountOrder / 8
	l2Covers        = clusterSize / 8 * clusterSize // bytes of the guest, per entry of the L1 table
	maxL1           = 32 << 20                      // bytes, QEMU's limit (QCOW_MAX_L1_SIZE)
	version3        = 3
	version3Bytes   = 104
	cryptLUKS       = 2
	cryptoBytes     = 16
	refcountTableAt = 1
	refcountBlockAt = 2
	l1At            = 3
)

// Header extensions. QEMU keeps unknown ones.
const (
	extensionCrypto = 0x0537be77
	extensionMark   = 0x6c756b70 // "lukp"
)

// headerBytes is the size of the header with its extensions. It is less than a page, so that
// a write of it is atomic.
const headerBytes = 512

// MaxMark is the longest mark, in bytes.
const MaxMark = 256

// layout has the places of a file's parts, in clusters.
type layout struct {
	l1Entries int64
	crypto    int64 // the LUKS header, 0 for none
	clusters  int64 // in all
}

func layOut(o Options) (layout, error) {
	if o.Size <= 0 {
		return layout{}, fmt.Errorf("there is nothing to cover: the image below has %d bytes", o.Size)
	}
	if o.Mark == "" || len(o.Mark) > MaxMark {
		return layout{}, fmt.Errorf("a mark of %d bytes: it must have 1 to %d", len(o.Mark), MaxMark)
	}
	entries := (o.Size-1)/l2Covers + 1
	if entries > maxL1/8 {
		return layout{}, fmt.Errorf("the image below has %d bytes, and a qcow2 image %d at most", o.Size, int64(maxL1/8)*l2Covers)
	}
	l := layout{l1Entries: entries, clusters: l1At + clustersOf(8*entries)}
	if o.Header != nil {
		if o.Header.Len() == 0 || o.Header.Len() > luks.FreshSize {
			return layout{}, errors.New("its LUKS header has been wiped, or is none of a fresh volume")
		}
		l.crypto = l.clusters
		l.clusters += clustersOf(luks.FreshSize)
	}
	return l, nil
}

func clustersOf(bytes int64) int64 { return (bytes + clusterSize - 1) / clusterSize }

// header returns the qcow2 header with its extensions.
func (l layout) header(o Options) []byte {
	b := make([]byte, version3Bytes, headerBytes)
	copy(b, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(b[4:], version3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(o.Size))
	if l.crypto != 0 {
		be.PutUint32(b[32:], cryptLUKS)
	}
	be.PutUint32(b[36:], uint32(l.l1Entries))
	be.PutUint64(b[40:], l1At*clusterSize)
	be.PutUint64(b[48:], refcountTableAt*clusterSize)
	be.PutUint32(b[56:], 1) // clusters of the refcount table
	be.PutUint32(b[96:], refcountOrder)
	be.PutUint32(b[100:], version3Bytes)
	if l.crypto != 0 {
		b = be.AppendUint32(b, extensionCrypto)
		b = be.AppendUint32(b, cryptoBytes)
		b = be.AppendUint64(b, uint64(l.crypto*clusterSize))
		b = be.AppendUint64(b, luks.FreshSize)
	}
	b = append(b, markOf(o.Mark)...)
	return b[:headerBytes] // zeroes end the extensions
}

// markOf returns the header extension that holds a mark.
func markOf(mark string) []byte {
	b := binary.BigEndian.AppendUint32(nil, extensionMark)
	b = binary.BigEndian.AppendUint32(b, uint32(len(mark)))
	b = append(b, mark...)
	return append(b, make([]byte, -len(mark)&7)...)
}

// writeTables writes the refcounts: 1 for each cluster. The L1 table is a hole.
func (l layout) writeTables(f io.WriterAt) error {
	table := binary.BigEndian.AppendUint64(nil, refcountBlockAt*clusterSize)
	if _, err := f.WriteAt(table, refcountTableAt*clusterSize); err != nil {
		return err
	}
	counts := make([]byte, 0, l.clusters*refcountBytes)
	for range l.clusters {
		counts = binary.BigEndian.AppendUint16(counts, 1)
	}
	_, err := f.WriteAt(counts, refcountBlockAt*clusterSize)
	return err
}
