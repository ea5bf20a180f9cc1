package luks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Offsets in a key slot of LUKS1 (LUKS On-Disk Format Specification 1.2.3, figure 2).
const (
	luks1Iterations = 4 // followed by the salt
)

// luks1SlotAt returns the offset of a key slot in the header. That of slot 6 crosses a sector: its state and iterations are
// in the first one.
func luks1SlotAt(number int) int64 { return int64(luks1Keys + number*luks1KeySlot) }

// spare returns the first free key slot whose key material has room.
func (h *LUKS1) spare(r io.ReaderAt, v *volume) (place, error) {
	length := sectors(h.KeyBytes*Stripes) * SectorSize
	free := 0
	for i, k := range h.Slots {
		if k.Active {
			continue
		}
		free++
		at := int64(k.MaterialSectors) * SectorSize
		there, err := exists(r, at+length)
		if err != nil {
			return place{}, err
		}
		if there {
			return place{slot{number: i, offset: at, encryption: v.encryption, areaKeyBytes: h.KeyBytes, af: v.digest.hash}, h.KeyBytes, length}, nil
		}
	}
	if free > 0 {
		return place{}, fmt.Errorf("%w: it is cut off before the key material of the free ones", ErrNoSpareSlot)
	}
	return place{}, fmt.Errorf("%w: all %d are in use", ErrNoSpareSlot, Slots)
}

// writeLUKS1Key writes a new key slot. It counts with its last write, of the state alone.
func writeLUKS1Key(s Storage, p place, material []byte) error {
	if err := store(s, material, p.offset); err != nil {
		return err
	}
	if err := storeLUKS1Salt(s, p.number, p.kdf.iterations, p.kdf.salt); err != nil {
		return err
	}
	return storeLUKS1State(s, p.number, slotActive)
}

func storeLUKS1State(s Storage, number int, state uint32) error {
	return store(s, binary.BigEndian.AppendUint32(nil, state), luks1SlotAt(number))
}

func storeLUKS1Salt(s Storage, number int, iterations uint32, salt []byte) error {
	return store(s, append(binary.BigEndian.AppendUint32(nil, iterations), salt...), luks1SlotAt(number)+luks1Iterations)
}

// eraseLUKS1 wipes a key slot.
func eraseLUKS1(s Storage, h *LUKS1, number int) error {
	if err := storeLUKS1State(s, number, slotDisabled); err != nil {
		return err
	}
	return scrubLUKS1(s, h, number)
}

// scrubLUKS1 overwrites what is left of a disabled key slot. Its salt is not empty until the end, so that an interrupted run
// is recognised.
func scrubLUKS1(s Storage, h *LUKS1, number int) error {
	if err := storeLUKS1Salt(s, number, 0, randomBytes(slotSaltBytes)); err != nil {
		return err
	}
	at, length := int64(h.Slots[number].MaterialSectors)*SectorSize, sectors(h.KeyBytes*Stripes)*SectorSize
	if err := overwrite(s, at, length); err != nil {
		return err
	}
	return storeLUKS1Salt(s, number, 0, make([]byte, slotSaltBytes))
}

func finishLUKS1(s Storage, h *LUKS1) ([]int, error) {
	var numbers []int
	for i, k := range h.Slots {
		if k.Active || k.Iterations == 0 && bytes.Equal(k.Salt[:], make([]byte, slotSaltBytes)) {
			continue
		}
		if err := scrubLUKS1(s, h, i); err != nil {
			return nil, fmt.Errorf("key slot %d: %w", i, err)
		}
		numbers = append(numbers, i)
	}
	return numbers, nil
}
