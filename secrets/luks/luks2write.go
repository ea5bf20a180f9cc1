package luks

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
)

// The JSON area of a new LUKS2 header (LUKS2 On-Disk Format Specification 1.1, section 3).
// Numbers of 64 bits are texts.
type (
	json2Area struct {
		KeySlots map[string]json2KeySlot `json:"keyslots"`
		Tokens   map[string]json2Birth   `json:"tokens"`
		Segments map[string]json2Segment `json:"segments"`
		Digests  map[string]json2Digest  `json:"digests"`
		Config   json2Config             `json:"config"`
	}
	json2KeySlot struct {
		Type    string        `json:"type"`
		KeySize int           `json:"key_size"`
		AF      json2AF       `json:"af"`
		Area    json2Material `json:"area"`
		KDF     json2KDF      `json:"kdf"`
	}
	json2AF struct {
		Type    string `json:"type"`
		Stripes int    `json:"stripes"`
		Hash    string `json:"hash"`
	}
	json2Material struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		Encryption string `json:"encryption"`
		KeySize    int    `json:"key_size"`
	}
	json2KDF struct {
		Type       string `json:"type"`
		Hash       string `json:"hash,omitempty"`
		Iterations uint32 `json:"iterations,omitempty"`
		Time       uint32 `json:"time,omitempty"`
		Memory     uint32 `json:"memory,omitempty"`
		Lanes      uint32 `json:"cpus,omitempty"`
		Salt       []byte `json:"salt"`
	}
	json2Segment struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		IVTweak    string `json:"iv_tweak"`
		Encryption string `json:"encryption"`
		SectorSize int    `json:"sector_size"`
	}
	json2Digest struct {
		Type       string   `json:"type"`
		KeySlots   []string `json:"keyslots"`
		Segments   []string `json:"segments"`
		Hash       string   `json:"hash"`
		Iterations uint32   `json:"iterations"`
		Salt       []byte   `json:"salt"`
		Digest     []byte   `json:"digest"`
	}
	json2Config struct {
		JSONSize     string `json:"json_size"`
		KeySlotsSize string `json:"keyslots_size"`
	}
)

// luks2 returns both copies of a new header, and the key material of its key slot.
func (p headerParts) luks2() ([]byte, error) {
	areas := int64(luks2Default)
	if p.PayloadOffset != 0 {
		areas = p.PayloadOffset / luks2Align * luks2Align
	}
	areas -= luks2Areas
	decimal := func(n int64) string { return strconv.FormatInt(n, 10) }
	area, err := json.Marshal(json2Area{
		KeySlots: map[string]json2KeySlot{"0": {
			Type: typeLUKS2, KeySize: p.KeyBytes,
			AF:   json2AF{Type: "luks1", Stripes: Stripes, Hash: p.Hash},
			Area: json2Material{Type: "raw", Offset: decimal(luks2Areas), Size: decimal(luks2Slot(p.KeyBytes)), Encryption: p.encryption.String(), KeySize: p.KeyBytes},
			KDF: json2KDF{Type: p.slot.Type, Hash: p.slot.Hash, Iterations: p.slot.Iterations, Time: p.slot.Time, Memory: p.slot.Memory,
				Lanes: p.slot.Lanes, Salt: p.slot.Salt},
		}},
		Tokens: p.tokens(),
		Segments: map[string]json2Segment{"0": {
			Type: typeCrypt, Offset: decimal(p.PayloadOffset), Size: "dynamic", IVTweak: "0", Encryption: p.encryption.String(), SectorSize: SectorSize,
		}},
		Digests: map[string]json2Digest{"0": {
			Type: typePBKDF2, KeySlots: []string{"0"}, Segments: []string{"0"}, Hash: p.digest.hash.name, Iterations: p.digest.iterations,
			Salt: p.digest.salt, Digest: p.sum,
		}},
		Config: json2Config{JSONSize: decimal(newLUKS2Size - luks2Size), KeySlotsSize: decimal(areas)},
	})
	if err != nil {
		return nil, err
	}
	b := make([]byte, luks2Areas+int64(len(p.material)))
	for _, off := range []int64{0, newLUKS2Size} {
		if err := p.luks2Copy(b[off:][:newLUKS2Size], area, off); err != nil {
			return nil, err
		}
	}
	copy(b[luks2Areas:], p.material)
	return b, nil
}

// luks2Checksum256 is the algorithm of the checksum that cryptsetup writes.
const luks2Checksum256 = "sha256"

// luks2Copy writes the copy of the header that belongs at off, with its JSON area and checksum.
func (p headerParts) luks2Copy(b, area []byte, off int64) error {
	if len(area) >= len(b)-luks2Size { // it ends with a NUL
		return fmt.Errorf("%w: the JSON text has %d bytes, its area %d", ErrUnsupported, len(area), len(b)-luks2Size)
	}
	copy(b, magic)
	if off != 0 {
		copy(b, secondaryMagic)
	}
	binary.BigEndian.PutUint16(b[6:], 2)
	binary.BigEndian.PutUint64(b[8:], uint64(len(b)))
	binary.BigEndian.PutUint64(b[16:], 1) // the number of this state of the header
	copy(b[24:72], p.Label)
	copy(b[72:104], luks2Checksum256)
	copy(b[104:168], randomBytes(64)) // so that the copies differ in every block
	copy(b[168:208], p.UUID)
	binary.BigEndian.PutUint64(b[256:], uint64(off))
	copy(b[luks2Size:], area)
	sum, err := checksumOf(b[:luks2Size], b[luks2Size:])
	if err != nil {
		return err
	}
	copy(b[luks2Checksum:], sum)
	return nil
}
