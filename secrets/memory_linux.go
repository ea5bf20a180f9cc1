package secrets

import (
	"sync"

	"golang.org/x/sys/unix"
)

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
	process.hold()
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		// RLIMIT_AS: fall back to the heap.
		return make([]byte, n), process.letGo
	}
	// All three are best effort: a kernel or a limit that refuses them makes
	// the secret less protected, not unusable.
	_ = unix.Mlock(memory)
	_ = unix.Madvise(memory, unix.MADV_DONTDUMP)
	_ = unix.Madvise(memory, unix.MADV_WIPEONFORK)
	// Unmapping also unlocks. It cannot fail for a mapping that exists.
	return memory, func() {
		_ = unix.Munmap(memory)
		process.letGo()
	}
}

// process is the process that this code runs in. Whether it can be dumped is a
// setting of all of it, so there is one count of all secrets.
var process holder

// holder keeps a process from being dumped while it holds secrets. The pages of a
// secret are in no core file anyway; what a cipher or a parser has made of them in
// Go's memory would be. It also keeps other processes of the same user from
// reading the memory (ptrace(2), /proc/PID/mem). See prctl(2), PR_SET_DUMPABLE.
type holder struct {
	mu      sync.Mutex
	secrets int
	restore bool // the process could be dumped before
}

// hold adds a secret. It is best effort like the rest: a kernel that refuses makes
// the secret less protected, not unusable.
func (h *holder) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets++
	if h.secrets > 1 {
		return
	}
	const yes = 1 // 2 is suid_dumpable's, which cannot be set back
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	h.restore = err == nil && before == yes
	if before != 0 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}

// letGo takes a secret away. After the last one the process is as it was.
func (h *holder) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets--
	if h.secrets == 0 && h.restore {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
}
