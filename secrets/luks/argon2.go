package luks

import (
	"context"
	"runtime/debug"

	"golang.org/x/crypto/argon2"

	"github.com/luksplug/luksplug/secrets"
)

// argon2Key derives n bytes from the passphrase. The caller wipes them.
//
// x/crypto's implementation cannot be interrupted. When ctx ends, argon2Key
// returns at once; the derivation continues in its own goroutine, which wipes the
// result. The passphrase is in use until then: wiping it earlier is allowed and
// takes effect at the end.
func argon2Key(ctx context.Context, k kdf, passphrase *secrets.Secret, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		key []byte
		err error
	}
	done := make(chan result)
	go func() {
		var r result
		r.err = passphrase.Use(func(value []byte) error {
			derive := argon2.IDKey
			if k.kind == typeArgon2i {
				derive = argon2.Key
			}
			r.key = derive(value, k.salt, k.time, k.memory, uint8(k.lanes), uint32(n))
			return nil
		})
		// The derived key can be computed from the working memory, which
		// x/crypto does not wipe. Returning it to the system, which zeroes it,
		// also frees up to 1 GiB.
		debug.FreeOSMemory()
		select {
		case done <- r:
		case <-ctx.Done():
			clear(r.key)
		}
	}()
	select {
	case r := <-done:
		return r.key, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
