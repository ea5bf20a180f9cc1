package luks

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"reflect"

	"github.com/luksplug/luksplug/internal/wipe"
)

// chunk is the number of iterations of PBKDF2 between checks of the context and
// reports of progress: a few milliseconds.
const chunk = 8192

// prf is HMAC (RFC 2104) with one key, as PBKDF2 (RFC 8018, section 5.2) uses it.
// crypto/hmac is not used because it leaves the key, in a slice that cannot be
// wiped, to the garbage collector. prf is not safe for concurrent use.
type prf struct {
	hash hash.Hash
	// The state of the hash, and copies after the first block, which depends
	// only on the key: not hashing it again saves half of the work. The copies
	// use reflection, because not all hashes can export their state, and those
	// that can are slower.
	state, inner, outer reflect.Value
	sum                 []byte
}

// newPRF returns the prf of key, and does not keep key. The caller wipes the prf.
func (a hashAlgorithm) newPRF(key []byte) *prf {
	h := a.make()
	pad := make([]byte, h.BlockSize())
	if len(key) > len(pad) {
		wipe.Stack(func() {
			_, _ = h.Write(key) // hash.Hash: never returns an error
			h.Sum(pad[:0])
		})
	} else {
		copy(pad, key)
	}
	p := &prf{hash: h, state: reflect.ValueOf(h).Elem(), sum: make([]byte, 0, h.Size())}
	for i := range pad {
		pad[i] ^= 0x36
	}
	p.inner = p.after(pad)
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	p.outer = p.after(pad)
	clear(pad)
	return p
}

// after returns a copy of the hash's state after hashing the block pad.
func (p *prf) after(pad []byte) reflect.Value {
	p.hash.Reset()
	_, _ = p.hash.Write(pad)
	saved := reflect.New(p.state.Type()).Elem()
	saved.Set(p.state)
	return saved
}

// mac replaces to by HMAC(to); to has the hash's size.
func (p *prf) mac(to []byte) {
	p.state.Set(p.inner)
	_, _ = p.hash.Write(to)
	p.finish(to)
}

// finish writes the outer hash to to.
func (p *prf) finish(to []byte) {
	p.sum = p.hash.Sum(p.sum[:0])
	p.state.Set(p.outer)
	_, _ = p.hash.Write(p.sum)
	p.hash.Sum(to[:0])
}

func (p *prf) wipe() {
	for _, v := range []reflect.Value{p.state, p.inner, p.outer} {
		v.SetZero()
	}
	clear(p.sum[:cap(p.sum)])
}

// block writes one block of PBKDF2's output, with index from 0, to to, which has the
// hash's size. It calls tick with the number of iterations since the last call. When
// ctx ends, it stops and returns the context's error.
func (p *prf) block(ctx context.Context, k kdf, index int, to []byte, tick func(n int64)) error {
	u := make([]byte, len(to))
	defer clear(u)

	p.state.Set(p.inner)
	_, _ = p.hash.Write(k.salt)
	_, _ = p.hash.Write(binary.BigEndian.AppendUint32(nil, uint32(index)+1))
	p.finish(u)
	copy(to, u)
	for left := k.iterations - 1; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(left, chunk)
		for range n {
			p.mac(u)
			subtle.XORBytes(to, to, u)
		}
		left -= n
		tick(int64(n))
	}
	tick(1)
	return nil
}

// blocks returns the number of blocks in n bytes of output.
func (a hashAlgorithm) blocks(n int) int {
	size := a.make().Size()
	return (n + size - 1) / size
}

// pbkdf2 returns n bytes derived from secret. It computes the blocks sequentially.
// The caller wipes the result.
func pbkdf2(ctx context.Context, k kdf, secret []byte, n int) ([]byte, error) {
	p := k.hash.newPRF(secret)
	defer p.wipe()
	size := p.hash.Size()
	out := make([]byte, k.hash.blocks(n)*size)
	for i := range len(out) / size {
		if err := p.block(ctx, k, i, out[i*size:][:size], func(int64) {}); err != nil {
			clear(out)
			return nil, err
		}
	}
	clear(out[n:])
	return out[:n], nil
}
