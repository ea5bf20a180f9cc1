package image

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/luksplug/luksplug/secrets/luks"
)

// CryptMethod is how a qcow2 image encrypts its clusters.
type CryptMethod string

// The methods (QEMU: docs/interop/qcow2.rst, crypt_method).
const (
	CryptNone CryptMethod = "none"
	CryptAES  CryptMethod = "aes" // broken; QEMU's system emulator refuses it
	CryptLUKS CryptMethod = "luks"
)

// Qcow2Header is the header of a qcow2 image. Relative file names are relative to the
// image's directory.
type Qcow2Header struct {
	Version     int   // 2 or 3
	VirtualSize int64 // bytes that the guest sees
	ClusterSize int64 // bytes
	Crypt       CryptMethod
	LUKS        *luks.Header // inside the image, if Crypt is CryptLUKS
	// LUKSOffset and LUKSLength are the place in the image that is reserved for it, in bytes.
	LUKSOffset, LUKSLength int64

	HasBacking    bool
	BackingFile   string
	BackingFormat string // "" if the image does not say

	HasDataFile bool   // guest data is in another file
	DataFile    string // may be empty: it is named when the image is opened

	Corrupt bool // marked by QEMU, which opens the image read-only then

	extendedL2 bool
	zstd       bool
	l1Offset   int64
	l1Entries  int64
}

// Positions and QEMU's limits of the header (docs/interop/qcow2.rst, "Header").
const (
	qcow2Size2      = 72 // of the header, version 2
	qcow2Size3      = 104
	minClusterBits  = 9
	maxClusterBits  = 21
	maxL1Entries    = 32 << 20 / 8
	maxBackingName  = 1023
	maxExtensionLen = 1 << 20

	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
	incompatKnown       = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompression | incompatExtendedL2

	extensionEnd      = 0
	extensionBacking  = 0xe2792aca // the format of the backing file
	extensionDataFile = 0x44415441
	extensionCrypto   = 0x0537be77
)

// ReadQcow2 reads the header of a qcow2 image that r shows as it is stored. The errors are
// those of [Probe], without a path.
func ReadQcow2(r io.ReaderAt) (*Qcow2Header, error) { return checkedQcow2(r, luks.ReadHeader) }

// ReadQcow2Incomplete is [ReadQcow2] for an image whose volume may be incomplete, as
// [ProbeIncomplete].
func ReadQcow2Incomplete(r io.ReaderAt) (*Qcow2Header, error) {
	return checkedQcow2(r, luks.ReadIncomplete)
}

func checkedQcow2(r io.ReaderAt, read reading) (*Qcow2Header, error) {
	start, err := readUpTo(r, 0, probeLen)
	if err != nil {
		return nil, err
	}
	if f := format(start); f != Qcow2 {
		return nil, fmt.Errorf("%w: it is no qcow2 image, but %s", ErrDamaged, f)
	}
	return readQcow2(r, read)
}

func readQcow2(r io.ReaderAt, read reading) (*Qcow2Header, error) {
	// Header and extensions are in the first cluster, and at its beginning.
	b, err := readUpTo(r, 0, 1<<16)
	if err != nil {
		return nil, err
	}
	if len(b) < qcow2Size2 {
		return nil, fmt.Errorf("%w: a qcow2 header cut off after %d bytes", ErrDamaged, len(b))
	}
	h := &Qcow2Header{Version: int(binary.BigEndian.Uint32(b[4:]))}
	headerSize := qcow2Size2
	switch h.Version {
	case 2:
	case 3:
		if headerSize, err = h.readVersion3(b); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: qcow2 version %d", ErrUnsupported, h.Version)
	}
	if err := h.readCommon(b); err != nil {
		return nil, err
	}
	if err := h.readBacking(r, b); err != nil {
		return nil, err
	}
	end := min(int64(len(b)), h.ClusterSize)
	if at := int64(binary.BigEndian.Uint64(b[8:])); at > 0 && at < end {
		end = at // the backing file's name follows the extensions
	}
	if int64(headerSize) > end {
		return nil, fmt.Errorf("%w: a qcow2 header of %d bytes does not fit", ErrDamaged, headerSize)
	}
	if err := h.readExtensions(r, read, b[headerSize:end]); err != nil {
		return nil, err
	}
	if h.Crypt == CryptLUKS && h.LUKS == nil {
		return nil, fmt.Errorf("%w: qcow2 encrypted by LUKS, without a LUKS header", ErrDamaged)
	}
	return h, nil
}

// readVersion3 reads the features and returns the length of the header.
func (h *Qcow2Header) readVersion3(b []byte) (int, error) {
	if len(b) < qcow2Size3 {
		return 0, fmt.Errorf("%w: a qcow2 header cut off after %d bytes", ErrDamaged, len(b))
	}
	features := binary.BigEndian.Uint64(b[72:])
	if unknown := features &^ incompatKnown; unknown != 0 {
		return 0, fmt.Errorf("%w: qcow2 incompatible features %#x", ErrUnsupported, unknown)
	}
	size := binary.BigEndian.Uint32(b[100:])
	if size < qcow2Size3 || int64(size) > int64(len(b)) || size%8 != 0 {
		return 0, fmt.Errorf("%w: a qcow2 header of %d bytes", ErrDamaged, size)
	}
	h.Corrupt = features&incompatCorrupt != 0
	h.HasDataFile = features&incompatDataFile != 0
	h.extendedL2 = features&incompatExtendedL2 != 0
	if features&incompatCompression != 0 {
		if size <= qcow2Size3 || b[104] != 1 {
			return 0, fmt.Errorf("%w: unknown qcow2 compression type", ErrUnsupported)
		}
		h.zstd = true
	}
	return int(size), nil
}

func (h *Qcow2Header) readCommon(b []byte) error {
	clusterBits := binary.BigEndian.Uint32(b[20:])
	if clusterBits < minClusterBits || clusterBits > maxClusterBits {
		return fmt.Errorf("%w: qcow2 clusters of 2^%d bytes", ErrDamaged, clusterBits)
	}
	h.ClusterSize = 1 << clusterBits
	h.VirtualSize = int64(binary.BigEndian.Uint64(b[24:]))
	h.l1Entries = int64(binary.BigEndian.Uint32(b[36:]))
	h.l1Offset = int64(binary.BigEndian.Uint64(b[40:]))
	methods := []CryptMethod{CryptNone, CryptAES, CryptLUKS}
	method := binary.BigEndian.Uint32(b[32:])
	if method >= uint32(len(methods)) {
		return fmt.Errorf("%w: qcow2 encryption method %d", ErrUnsupported, method)
	}
	h.Crypt = methods[method]
	// What one L1 entry covers, at most 2^21 * 2^18 bytes.
	perL1 := h.ClusterSize * (h.ClusterSize / h.l2EntrySize())
	switch {
	case h.VirtualSize < 0:
		return fmt.Errorf("%w: a virtual size above 2^63 bytes", ErrDamaged)
	case h.l1Entries > maxL1Entries:
		return fmt.Errorf("%w: an L1 table of %d entries", ErrDamaged, h.l1Entries)
	case h.l1Offset < 0 || h.l1Offset%h.ClusterSize != 0:
		return fmt.Errorf("%w: the L1 table is at offset %d, which is no cluster's", ErrDamaged, h.l1Offset)
	case h.VirtualSize > h.l1Entries*perL1:
		return fmt.Errorf("%w: an L1 table of %d entries is too small for %d bytes", ErrDamaged, h.l1Entries, h.VirtualSize)
	}
	return nil
}

func (h *Qcow2Header) l2EntrySize() int64 {
	if h.extendedL2 {
		return 16
	}
	return 8
}

func (h *Qcow2Header) readBacking(r io.ReaderAt, b []byte) error {
	offset := int64(binary.BigEndian.Uint64(b[8:]))
	if offset == 0 {
		return nil
	}
	length := int64(binary.BigEndian.Uint32(b[16:]))
	if offset < 0 || length > maxBackingName || offset+length > h.ClusterSize {
		return fmt.Errorf("%w: a backing file name of %d bytes at offset %d", ErrDamaged, length, offset)
	}
	name, err := readUpTo(r, offset, int(length))
	if err != nil {
		return err
	}
	if int64(len(name)) < length {
		return fmt.Errorf("%w: the backing file's name is cut off", ErrDamaged)
	}
	h.HasBacking = true
	h.BackingFile = string(name)
	return nil
}

// readExtensions reads the header extensions from b, which begins with the first of them.
func (h *Qcow2Header) readExtensions(r io.ReaderAt, read reading, b []byte) error {
	for len(b) >= 8 {
		kind, length := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint32(b[4:]))
		b = b[8:]
		if kind == extensionEnd {
			return nil
		}
		if length > int64(len(b)) || length > maxExtensionLen {
			return fmt.Errorf("%w: a qcow2 header extension of %d bytes does not fit", ErrDamaged, length)
		}
		data := b[:length]
		switch kind {
		case extensionBacking:
			h.BackingFormat = string(data)
		case extensionDataFile:
			h.DataFile = string(data)
		case extensionCrypto:
			if err := h.readCrypto(r, read, data); err != nil {
				return err
			}
		}
		padded := min((length+7)&^7, int64(len(b)))
		b = b[padded:]
	}
	return nil
}

// InsideError reports that the LUKS header inside a qcow2 image cannot be read.
type InsideError struct {
	Offset, Length int64 // the place in the image that is reserved for it, in bytes
	Err            error
}

func (e *InsideError) Error() string { return "inside qcow2: " + e.Err.Error() }

// Unwrap returns the error of the header.
func (e *InsideError) Unwrap() error { return e.Err }

// readCrypto reads the LUKS header that the extension points to.
func (h *Qcow2Header) readCrypto(r io.ReaderAt, read reading, extension []byte) error {
	if h.Crypt != CryptLUKS || len(extension) != 16 {
		return fmt.Errorf("%w: a LUKS header pointer of %d bytes, encryption method %s", ErrDamaged, len(extension), h.Crypt)
	}
	if h.LUKS != nil { // QEMU would unlock each of them
		return fmt.Errorf("%w: more than one LUKS header", ErrDamaged)
	}
	offset := int64(binary.BigEndian.Uint64(extension))
	length := int64(binary.BigEndian.Uint64(extension[8:]))
	if offset < h.ClusterSize || offset%h.ClusterSize != 0 || length <= 0 || offset+length < 0 {
		return fmt.Errorf("%w: a LUKS header of %d bytes at offset %d", ErrDamaged, length, offset)
	}
	header, err := read(io.NewSectionReader(r, offset, length))
	if err != nil {
		return &InsideError{Offset: offset, Length: length, Err: err}
	}
	h.LUKS, h.LUKSOffset, h.LUKSLength = header, offset, length
	return nil
}
