package luks

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"fmt"
	"hash"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/ripemd160" //nolint:staticcheck // old, but existing volumes use it
)

// hashAlgorithm is a hash function by its name in LUKS headers.
type hashAlgorithm struct {
	name string
	make func() hash.Hash
}

// hashAlgorithms are the supported hashes for key derivation, splitter and digest.
// QEMU need not support them: an ephemeral header always uses sha256.
var hashAlgorithms = [...]hashAlgorithm{
	{"sha1", sha1.New},
	{"sha224", sha256.New224},
	{"sha256", sha256.New},
	{"sha384", sha512.New384},
	{"sha512", sha512.New},
	{"ripemd160", ripemd160.New},
	{"sha3-224", func() hash.Hash { return sha3.New224() }},
	{"sha3-256", func() hash.Hash { return sha3.New256() }},
	{"sha3-384", func() hash.Hash { return sha3.New384() }},
	{"sha3-512", func() hash.Hash { return sha3.New512() }},
	{"blake2b-512", func() hash.Hash { return unkeyed(blake2b.New512) }},
	{"blake2s-256", func() hash.Hash { return unkeyed(blake2s.New256) }},
}

// unkeyed returns a BLAKE2 hash without key. The constructor returns errors only for
// a key.
func unkeyed(make func(key []byte) (hash.Hash, error)) hash.Hash {
	h, _ := make(nil)
	return h
}

func findHash(name string) (hashAlgorithm, error) {
	for _, h := range hashAlgorithms {
		if h.name == name {
			return h, nil
		}
	}
	return hashAlgorithm{}, fmt.Errorf("%w: hash %q", ErrUnsupported, name)
}
