package luks

import (
	"context"
	"encoding/binary"
	"sync"

	_ "unsafe" // for go:linkname

	"golang.org/x/crypto/argon2" // its compression function, which uses the processor's vectors
	"golang.org/x/crypto/blake2b"

	"github.com/luksplug/luksplug/internal/wipe"
	"github.com/luksplug/luksplug/secrets"
)

// argon2Block is a block of Argon2's memory.
type argon2Block [128]uint64

const (
	argon2BlockLen = 1 << 10 // in bytes
	argon2Slices   = 4       // of a pass, between which the lanes wait for each other
	argon2I        = 1
	argon2ID       = 2
)

// argon2Blocks returns the number of blocks, of 1 KiB, that Argon2 uses: at least 8 a lane
// (RFC 9106, section 3.1 and 3.2).
func (k kdf) argon2Blocks() int64 {
	perSlice := argon2Slices * int64(k.lanes)
	return max(int64(k.memory)/perSlice, 2) * perSlice
}

// argon2Run is one derivation (RFC 9106). x/crypto's own function is not used because it
// cannot be interrupted, and leaves a part of the passphrase in a hash.
type argon2Run struct {
	kdf
	kind                   uint32
	memory                 []argon2Block
	blocks, lane, perSlice uint32 // of the memory, of a lane, and of a slice of a lane
	interrupted            <-chan struct{}
}

// argon2Key derives n bytes from the passphrase. The caller wipes them. When ctx ends, it
// stops within milliseconds.
func argon2Key(ctx context.Context, k kdf, passphrase *secrets.Secret, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &argon2Run{kdf: k, kind: argon2ID, interrupted: ctx.Done()}
	if k.kind == typeArgon2i {
		r.kind = argon2I
	}
	r.blocks = uint32(k.argon2Blocks())
	r.lane = r.blocks / r.lanes
	r.perSlice = r.lane / argon2Slices

	var first [blake2b.Size + 8]byte
	defer clear(first[:])
	if err := passphrase.Use(func(value []byte) error {
		wipe.Stack(func() { r.hashInput(&first, value, uint32(n)) })
		return nil
	}); err != nil {
		return nil, err
	}
	memory, release, err := argon2Memory(int(r.blocks))
	if err != nil {
		return nil, err
	}
	// The derived key can be computed from the memory. Its release zeroes it.
	defer release()
	r.memory = memory
	r.fillFirst(&first)
	for pass := range r.time {
		for slice := range uint32(argon2Slices) {
			var lanes sync.WaitGroup
			for lane := range r.lanes {
				lanes.Go(func() { r.fill(pass, slice, lane) })
			}
			lanes.Wait()
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	return r.extract(n), nil
}

// hashInput writes the hash H0 of all inputs to first.
func (r *argon2Run) hashInput(first *[blake2b.Size + 8]byte, passphrase []byte, n uint32) {
	h, _ := blake2b.New512(nil) // fails only for a key
	defer wipe.Value(h)
	number := func(v uint32) { _, _ = h.Write(binary.LittleEndian.AppendUint32(nil, v)) } // never fails
	text := func(b []byte) {
		number(uint32(len(b)))
		_, _ = h.Write(b) // never fails
	}
	for _, v := range []uint32{r.lanes, n, r.kdf.memory, r.time, argon2.Version, r.kind} {
		number(v)
	}
	text(passphrase)
	text(r.salt)
	text(nil) // a secret
	text(nil) // associated data
	h.Sum(first[:0])
}

// fillFirst fills the first two blocks of each lane.
func (r *argon2Run) fillFirst(first *[blake2b.Size + 8]byte) {
	var b [argon2BlockLen]byte
	defer clear(b[:])
	for lane := range r.lanes {
		binary.LittleEndian.PutUint32(first[blake2b.Size+4:], lane)
		for i := range uint32(2) {
			binary.LittleEndian.PutUint32(first[blake2b.Size:], i)
			argon2Hash(b[:], first[:])
			into := &r.memory[lane*r.lane+i]
			for j := range into {
				into[j] = binary.LittleEndian.Uint64(b[8*j:])
			}
		}
	}
}

// fill fills one slice of a lane, unless ctx ends.
func (r *argon2Run) fill(pass, slice, lane uint32) {
	var addresses, input, zero argon2Block
	independent := r.kind == argon2I || pass == 0 && slice < argon2Slices/2
	copy(input[:], []uint64{uint64(pass), uint64(lane), uint64(slice), uint64(r.blocks), uint64(r.time), uint64(r.kind)})
	nextAddresses := func() {
		input[6]++
		argon2Compress(&addresses, &input, &zero)
		argon2Compress(&addresses, &addresses, &zero)
	}
	begin := uint32(0)
	if pass == 0 && slice == 0 {
		begin = 2
		if independent {
			nextAddresses()
		}
	}
	for index := begin; index < r.perSlice; index++ {
		const interval = 1 << 10 // a millisecond
		if index%interval == 0 {
			select {
			case <-r.interrupted:
				return
			default:
			}
		}
		at := lane*r.lane + slice*r.perSlice + index
		before := at - 1
		if slice == 0 && index == 0 {
			before += r.lane
		}
		random := r.memory[before][0]
		if independent {
			if index%uint32(len(addresses)) == 0 {
				nextAddresses()
			}
			random = addresses[index%uint32(len(addresses))]
		}
		argon2CompressXOR(&r.memory[at], &r.memory[before], &r.memory[r.reference(random, pass, slice, lane, index)])
	}
}

// reference returns the number of the block that random selects (section 3.4).
func (r *argon2Run) reference(random uint64, pass, slice, lane, index uint32) uint32 {
	from := uint32(random>>32) % r.lanes
	if pass == 0 && slice == 0 {
		from = lane
	}
	size, start := 3*r.perSlice, (slice+1)%argon2Slices*r.perSlice
	if pass == 0 {
		size, start = slice*r.perSlice, 0
	}
	if from == lane {
		size += index
	}
	if index == 0 || from == lane {
		size--
	}
	x := random & (1<<32 - 1)
	x = x * x >> 32
	x = x * uint64(size) >> 32
	return from*r.lane + uint32((uint64(start)+uint64(size)-1-x)%uint64(r.lane))
}

// extract returns the derived key.
func (r *argon2Run) extract(n int) []byte {
	var sum argon2Block
	for lane := range r.lanes {
		for i, v := range r.memory[lane*r.lane+r.lane-1] {
			sum[i] ^= v
		}
	}
	var b [argon2BlockLen]byte
	for i, v := range sum {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	key := make([]byte, n)
	argon2Hash(key, b[:])
	clear(sum[:])
	clear(b[:])
	return key
}

// argon2Hash fills out with the hash H' of in (section 3.3).
func argon2Hash(out, in []byte) {
	sum := func(to []byte, in ...[]byte) {
		h, _ := blake2b.New(len(to), nil) // fails only for a key, and for sizes that do not occur
		for _, b := range in {
			_, _ = h.Write(b) // never fails
		}
		h.Sum(to[:0])
		wipe.Value(h)
	}
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(out)))
	if len(out) <= blake2b.Size {
		sum(out, length, in)
		return
	}
	var v [blake2b.Size]byte
	defer clear(v[:])
	sum(v[:], length, in)
	const half = blake2b.Size / 2
	for {
		out = out[copy(out, v[:half]):]
		if len(out) <= blake2b.Size {
			sum(out, v[:])
			return
		}
		sum(v[:], v[:])
	}
}

//go:linkname argon2Compress golang.org/x/crypto/argon2.processBlock
//go:noescape
func argon2Compress(out, in1, in2 *argon2Block)

//go:linkname argon2CompressXOR golang.org/x/crypto/argon2.processBlockXOR
//go:noescape
func argon2CompressXOR(out, in1, in2 *argon2Block)
