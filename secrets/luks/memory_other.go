//go:build !linux

package luks

// argon2Memory returns n blocks, and a function that clears them.
func argon2Memory(n int) ([]argon2Block, func(), error) {
	b := make([]argon2Block, n)
	return b, func() { clear(b) }, nil
}
