package secrets

import (
	"errors"
	"fmt"
	"io"
)

// MaxLen is the largest secret, in bytes, that luksplug reads from any source:
// 8 MiB, the largest key file that cryptsetup accepts by default. It bounds memory
// if the wrong file is given.
const MaxLen = 8 << 20

// ErrTooLong is wrapped by the error of [Read] for more than [MaxLen] bytes.
var ErrTooLong = errors.New("the secret is too long")

// Read reads r to its end and returns the unmodified bytes as a Secret. It zeroes
// its buffers, also when it fails. For more than [MaxLen] bytes the error wraps
// [ErrTooLong]; errors of r are wrapped.
func Read(r io.Reader) (*Secret, error) {
	buf := make([]byte, 4096)
	defer func() { clear(buf) }()
	n := 0
	for {
		if n == len(buf) {
			// append would leave the old bytes behind unwiped.
			grown := make([]byte, 2*len(buf))
			copy(grown, buf)
			clear(buf)
			buf = grown
		}
		m, err := r.Read(buf[n:])
		n += m
		if n > MaxLen {
			return nil, fmt.Errorf("%w: more than %d bytes: is it the right file?", ErrTooLong, MaxLen)
		}
		switch {
		case errors.Is(err, io.EOF):
			return New(buf[:n]), nil
		case err != nil:
			return nil, err
		}
	}
}
