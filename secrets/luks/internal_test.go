package luks

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// Test vectors for PBKDF2 with HMAC-SHA-1 (RFC 6070).
func TestPBKDF2(t *testing.T) {
	t.Parallel()
	sha1 := must.Get(findHash("sha1"))(t)
	for _, test := range []struct {
		password, salt string
		iterations     uint32
		want           string
	}{
		{"password", "salt", 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6"},
		{"password", "salt", 4096, "4b007901b765489abead49d926f721d065a429c1"},
		{"passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096, "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"},
		{"pass\x00word", "sa\x00lt", 4096, "56fa6aa75548099dcc37d7f03425e0c3"},
	} {
		k := kdf{hash: sha1, salt: []byte(test.salt), iterations: test.iterations}
		got, err := pbkdf2(t.Context(), k, []byte(test.password), len(test.want)/2)
		if err != nil || hex.EncodeToString(got) != test.want {
			t.Errorf("%q: %x, %v", test.password, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := pbkdf2(ctx, kdf{hash: sha1, iterations: 1 << 31}, nil, 20); err == nil || got != nil {
		t.Error("not stopped")
	}
}

func TestSplitAndMerge(t *testing.T) {
	t.Parallel()
	for _, algorithm := range hashAlgorithms {
		for _, n := range []int{16, 64, 65} {
			key := make([]byte, n)
			_, _ = rand.Read(key)
			material := make([]byte, n*Stripes)
			algorithm.split(material, key)
			if bytes.Contains(material, key) {
				t.Errorf("%s: the key is in a stripe", algorithm.name)
			}
			if !bytes.Equal(algorithm.merge(material, n), key) {
				t.Errorf("%s: %d bytes", algorithm.name, n)
			}
			material[n*Stripes/2] ^= 1
			if bytes.Equal(algorithm.merge(material, n), key) {
				t.Errorf("%s: merge ignores a stripe", algorithm.name)
			}
		}
	}
}

// After wipe no field of any cipher and hash contains a part of a key.
func TestWipe(t *testing.T) {
	t.Parallel()
	nonzero := regexp.MustCompile(`[1-9]`)
	key := bytes.Repeat([]byte{0x77}, 32)
	for _, name := range []string{"aes-xts-plain64", "aes-cbc-essiv:sha256", "twofish-xts-plain", "twofish-cbc-plain"} {
		e := must.Get(parseEncryption(name))(t)
		c := must.Get(e.newSectorCipher(key))(t)
		c.encrypt(make([]byte, 2*SectorSize))
		blocks := c.blocks
		if len(blocks) == 0 {
			t.Errorf("%s: no cipher is known", name)
		}
		c.wipe()
		for _, b := range blocks {
			if left := values(b); nonzero.MatchString(left) {
				t.Errorf("%s: %s", name, left)
			}
		}
	}
	for _, algorithm := range hashAlgorithms {
		p := algorithm.newPRF(key)
		p.mac(make([]byte, p.hash.Size()))
		if !nonzero.MatchString(values(p.inner)) {
			t.Errorf("%s: no state before wipe: %s", algorithm.name, values(p.inner))
		}
		p.wipe()
		for _, left := range []string{values(p.hash), values(p.inner), values(p.outer), values(p.sum[:cap(p.sum)])} {
			if nonzero.MatchString(left) {
				t.Errorf("%s: %s", algorithm.name, left)
			}
		}
	}
}

// values formats the fields of the value that p points to, without type names.
func values(p any) string { return fmt.Sprintf("%d", p) }
