package luks

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"github.com/luksplug/luksplug/internal/wipe"
)

// The anti-forensic splitter (LUKS On-Disk Format Specification 1.2.3, section
// 2.4) expands a key to [Stripes] times its length so that losing any part of the
// result loses the key: a disk that remaps one sector cannot preserve an old key
// slot.

// merge returns the key from which material, a sequence of stripes, was split. The
// caller wipes both.
func (a hashAlgorithm) merge(material []byte, keyBytes int) []byte {
	d := newDiffuser(a)
	defer d.wipe()
	key := make([]byte, keyBytes)
	for i := range Stripes {
		if i > 0 {
			d.diffuse(key)
		}
		subtle.XORBytes(key, key, material[i*keyBytes:][:keyBytes])
	}
	return key
}

// split fills material, of [Stripes] times the key's length, with stripes that
// merge to key. All but the last one are random. The caller wipes material.
func (a hashAlgorithm) split(material, key []byte) {
	d := newDiffuser(a)
	defer d.wipe()
	last := material[(Stripes-1)*len(key):][:len(key)]
	_, _ = rand.Read(material[:len(material)-len(last)]) // never returns an error: it crashes the program instead
	clear(last)
	for i := range Stripes - 1 {
		subtle.XORBytes(last, last, material[i*len(key):][:len(key)])
		d.diffuse(last)
	}
	subtle.XORBytes(last, last, key)
}

// diffuser makes each byte of a stripe depend on many others.
type diffuser struct {
	hash  hash.Hash
	block []byte // a number followed by a part of the stripe
	sum   []byte
}

func newDiffuser(a hashAlgorithm) *diffuser {
	h := a.make()
	return &diffuser{hash: h, block: make([]byte, 4+h.Size()), sum: make([]byte, 0, h.Size())}
}

// diffuse replaces each part of the stripe, of the length of the hash or the shorter
// remainder, by the hash of its number and itself.
func (d *diffuser) diffuse(stripe []byte) {
	for i := uint32(0); len(stripe) > 0; i++ {
		n := min(d.hash.Size(), len(stripe))
		binary.BigEndian.PutUint32(d.block, i)
		copy(d.block[4:], stripe[:n])
		d.hash.Reset()
		_, _ = d.hash.Write(d.block[:4+n]) // hash.Hash: never returns an error
		copy(stripe[:n], d.hash.Sum(d.sum))
		stripe = stripe[n:]
	}
}

func (d *diffuser) wipe() {
	wipe.Value(d.hash)
	clear(d.block)
	clear(d.sum[:cap(d.sum)])
}
