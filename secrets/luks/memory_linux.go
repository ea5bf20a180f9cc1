package luks

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// argon2Memory returns n blocks, and a function that gives them back to the system at once,
// which zeroes them. The garbage collector would keep up to 1 GiB.
func argon2Memory(n int) ([]argon2Block, func(), error) {
	b, err := unix.Mmap(-1, 0, n*argon2BlockLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for the key derivation, %d KiB: %w", n, err)
	}
	_ = unix.Madvise(b, unix.MADV_DONTDUMP) // best effort, as for secrets
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // best effort: it is faster
	return unsafe.Slice((*argon2Block)(unsafe.Pointer(&b[0])), n), func() { _ = unix.Munmap(b) }, nil
}
