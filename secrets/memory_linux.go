package secrets

import (
	"sync"

	"golang.org/x/sys/unix"
)

// allocate returns n zeroed bytes in separate pages, and a function that unmaps
// them. mlock and madvise work on whole pages and do not nest: freeing one secret
// would unlock another one on the same page. Outside of the Go heap the garbage
// collector never copies the bytes.
//
// See mlock(2), madvise(2) (MADV_DONTDUMP, MADV_WIPEONFORK).
func allocate(n int) (memory []byte, release func()) {
	if n == 0 {
		return nil, func() {}
	}
	process.hold()
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		// RLIMIT_AS is exhausted: fall back to the heap.
		return make([]byte, n), process.letGo
	}
	// All three calls are best effort: if a kernel or a limit refuses them, the
	// secret is less protected but still usable.
	_ = unix.Mlock(memory)
	_ = unix.Madvise(memory, unix.MADV_DONTDUMP)
	_ = unix.Madvise(memory, unix.MADV_WIPEONFORK)
	// munmap also unlocks. It cannot fail for an existing mapping.
	return memory, func() {
		_ = unix.Munmap(memory)
		process.letGo()
	}
}

// process counts all secrets of this process: PR_SET_DUMPABLE applies to the
// process as a whole.
var process holder

// holder makes the process undumpable while it holds secrets. MADV_DONTDUMP already
// excludes the pages of a secret from core files, but not the data that ciphers and
// parsers derive from it in Go's memory. It also prevents other processes of the same
// user from reading the memory (ptrace(2), /proc/PID/mem). See prctl(2), PR_SET_DUMPABLE.
type holder struct {
	mu      sync.Mutex
	secrets int
	restore bool // the process was dumpable before
}

// hold adds a secret. It is best effort: if the kernel refuses, the secret is less
// protected but still usable.
func (h *holder) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets++
	if h.secrets > 1 {
		return
	}
	const yes = 1 // 2 comes from suid_dumpable and cannot be restored by prctl
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	h.restore = err == nil && before == yes
	if before != 0 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}

// letGo removes a secret. After the last one it restores the previous setting.
func (h *holder) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets--
	if h.secrets == 0 && h.restore {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
}
