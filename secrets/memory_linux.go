package secrets

import "golang.org/x/sys/unix"

// allocate returns n zeroed bytes in pages of their own, and the function that
// unmaps them. Own pages, because mlock and madvise work on whole pages and do
// not nest: two secrets on one page would unlock each other. Outside of the Go
// heap also means that the garbage collector never copies them.
//
// See mlock(2), madvise(2) (MADV_DONTDUMP, MADV_WIPEONFORK).
func allocate(n int) (memory []byte, release func()) {
	if n == 0 {
		return nil, func() {}
	}
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		// No pages to be had (RLIMIT_AS): a secret on the heap is better
		// than none.
		return make([]byte, n), func() {}
	}
	// All three are best effort: a kernel or a limit that refuses them makes
	// the secret less protected, not unusable.
	_ = unix.Mlock(memory)
	_ = unix.Madvise(memory, unix.MADV_DONTDUMP)
	_ = unix.Madvise(memory, unix.MADV_WIPEONFORK)
	// Unmapping also unlocks. It cannot fail for a mapping that exists.
	return memory, func() { _ = unix.Munmap(memory) }
}
