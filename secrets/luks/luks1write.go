package luks

import "encoding/binary"

// phdr has the fields of struct luks_phdr (LUKS On-Disk Format Specification, figure 1).
type phdr struct {
	encryption    encryption
	hash          string // of the digest, the splitter and every key slot
	keyBytes      int
	payloadOffset int64 // bytes
	uuid          string
	digest        kdf    // of the volume key
	sum           []byte // the digest's result, of minDigest bytes
	starts        [Slots]uint32
}

// write writes the header to b, with all key slots free.
func (p phdr) write(b []byte) {
	copy(b, magic)
	binary.BigEndian.PutUint16(b[6:], 1)
	copy(b[8:40], p.encryption.cipher)
	copy(b[40:72], p.encryption.mode+"-"+p.encryption.iv)
	copy(b[72:104], p.hash)
	binary.BigEndian.PutUint32(b[104:], uint32(p.payloadOffset/SectorSize))
	binary.BigEndian.PutUint32(b[108:], uint32(p.keyBytes))
	copy(b[112:132], p.sum)
	copy(b[132:164], p.digest.salt)
	binary.BigEndian.PutUint32(b[164:], p.digest.iterations)
	copy(b[168:208], p.uuid)
	for i, start := range p.starts {
		s := b[luks1Keys+i*luks1KeySlot:]
		binary.BigEndian.PutUint32(s, slotDisabled)
		binary.BigEndian.PutUint32(s[40:], start)
		binary.BigEndian.PutUint32(s[44:], Stripes)
	}
}

// writeLUKS1Slot marks a key slot of the header b as in use. Its key material is written first.
func writeLUKS1Slot(b []byte, number int, k kdf) {
	s := b[luks1Keys+number*luks1KeySlot:]
	binary.BigEndian.PutUint32(s, slotActive)
	binary.BigEndian.PutUint32(s[4:], k.iterations)
	copy(s[8:40], k.salt)
}

// seal returns the key material of a key slot, in whole sectors: the volume key, split, and encrypted with the key that
// was derived from the passphrase.
func (e encryption) seal(af hashAlgorithm, key, slotKey []byte) ([]byte, error) {
	c, err := e.newSectorCipher(slotKey)
	if err != nil {
		return nil, err
	}
	defer c.wipe()
	material := make([]byte, sectors(len(key)*Stripes)*SectorSize)
	af.split(material[:len(key)*Stripes], key)
	c.encrypt(material)
	return material, nil
}
