package image

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Partition is a part of an image by its partition table.
type Partition struct {
	Number       int   // from 1
	Offset, Size int64 // bytes
}

// Places in partition tables: UEFI specification, 5.2.1 (MBR) and 5.3 (GPT).
const (
	mbrEntries     = 446
	mbrEntry       = 16
	mbrType        = 4
	mbrProtective  = 0xee // the type of the entry that stands for a GPT
	gptEntriesLBA  = 72
	gptCount       = 80
	gptEntry       = 84
	gptFirst       = 32 // in an entry
	gptLast        = 40
	minGPTEntry    = 128
	maxGPTEntry    = 4096
	maxPartitions  = 128
	partitionUnits = 512
)

// Partitions returns the partitions of an image by its GPT or its MBR, nil for an image
// without a table. Of an MBR it returns the primary ones. The image's writer has chosen the
// numbers: partitions that are not within the image are left out, as are those above the
// 128th.
func Partitions(r Reader) ([]Partition, error) {
	start, err := readUpTo(r, 0, 2*4096)
	if err != nil {
		return nil, err
	}
	for _, sector := range []int{512, 4096} {
		if len(start) >= sector+partitionUnits && bytes.HasPrefix(start[sector:], []byte("EFI PART")) {
			return gptPartitions(r, start[sector:], int64(sector))
		}
	}
	if len(start) < partitionUnits || start[510] != 0x55 || start[511] != 0xaa {
		return nil, nil
	}
	var out []Partition
	for i := range 4 {
		entry := start[mbrEntries+i*mbrEntry:]
		if kind := entry[mbrType]; kind == 0 || kind == mbrProtective {
			continue
		}
		first, count := int64(binary.LittleEndian.Uint32(entry[8:])), int64(binary.LittleEndian.Uint32(entry[12:]))
		out = append(out, Partition{i + 1, first * partitionUnits, count * partitionUnits})
	}
	return within(out, r.Size()), nil
}

func gptPartitions(r Reader, header []byte, sector int64) ([]Partition, error) {
	at := binary.LittleEndian.Uint64(header[gptEntriesLBA:])
	count, size := binary.LittleEndian.Uint32(header[gptCount:]), binary.LittleEndian.Uint32(header[gptEntry:])
	if size < minGPTEntry || size > maxGPTEntry || at > uint64(r.Size()/sector) {
		return nil, nil
	}
	n := int(min(count, maxPartitions))
	entries, err := readUpTo(r, int64(at)*sector, n*int(size))
	if err != nil {
		return nil, err
	}
	var out []Partition
	for i := range len(entries) / int(size) {
		entry := entries[i*int(size):]
		if bytes.Equal(entry[:16], make([]byte, 16)) { // its type: not used
			continue
		}
		first, last := binary.LittleEndian.Uint64(entry[gptFirst:]), binary.LittleEndian.Uint64(entry[gptLast:])
		if end := uint64(r.Size() / sector); first > last || last >= end {
			continue
		}
		out = append(out, Partition{i + 1, int64(first) * sector, int64(last-first+1) * sector})
	}
	return within(out, r.Size()), nil
}

// within returns the partitions that are in an image of that size.
func within(all []Partition, size int64) []Partition {
	return slices.DeleteFunc(all, func(p Partition) bool {
		return p.Offset <= 0 || p.Size <= 0 || p.Offset > size || p.Size > size-p.Offset
	})
}

// Volumes returns the partitions that begin with a LUKS header.
func Volumes(r Reader, all []Partition) ([]Partition, error) {
	var out []Partition
	for _, p := range all {
		start, err := readUpTo(r, p.Offset, probeLen)
		if err != nil {
			return nil, err
		}
		if format(start).Encrypted() {
			out = append(out, p)
		}
	}
	return out, nil
}
