package secrets

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
)

// mappingOf returns the entry in /proc/self/smaps of the mapping that contains p.
func mappingOf(t *testing.T, p *byte) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	address := uintptr(unsafe.Pointer(p))
	inside, entry := false, ""
	for line := range strings.Lines(string(data)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= address && address < to
		}
		if inside {
			entry += line
		}
	}
	return entry
}

func TestMemoryIsLockedAndNotDumped(t *testing.T) {
	t.Parallel()
	err := New([]byte("hunter2")).Use(func(v []byte) error {
		entry := mappingOf(t, &v[0])
		_, flags, _ := strings.Cut(entry, "VmFlags:")
		if !strings.Contains(flags, " dd") {
			t.Errorf("the pages would be in a core file:\n%s", entry)
		}
		if !strings.Contains(flags, " lo") {
			t.Logf("not locked: RLIMIT_MEMLOCK is used up")
		}
		return nil
	})
	must.OK(t, err)
}

func dumpable(t *testing.T) int {
	t.Helper()
	n := must.Get(unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0))(t)
	return n
}

// waitNoneHeld runs the garbage collector until all secrets that other tests did not wipe are freed.
func waitNoneHeld(t *testing.T) {
	t.Helper()
	held := func() int {
		process.mu.Lock()
		defer process.mu.Unlock()
		return process.secrets
	}
	deadline := time.After(10 * time.Second)
	for held() != 0 {
		runtime.GC()
		select {
		case <-deadline:
			t.Fatalf("%d secrets are held, and all have been wiped or forgotten", held())
		case <-time.After(time.Millisecond):
		}
	}
}

// Not parallel: the setting is per process, so no other test may hold a secret
// meanwhile.
func TestProcessIsNotDumpableWhileItHoldsASecret(t *testing.T) {
	waitNoneHeld(t)
	before := dumpable(t)
	if before == 0 {
		t.Skip("this process cannot be dumped anyway")
	}
	first, second := New([]byte("hunter2")), New([]byte("hunter3"))
	wants := func(when string, want int) {
		if got := dumpable(t); got != want {
			t.Errorf("%s: PR_GET_DUMPABLE is %d, want %d", when, got, want)
		}
	}
	wants("with two secrets", 0)
	first.Wipe()
	first.Wipe()
	wants("with one secret", 0)
	_ = second.Use(func([]byte) error { second.Wipe(); wants("while the last one is in use", 0); return nil }) // returns nil
	wants("without secrets", before)
	func() { New([]byte("forgotten")) }()
	waitNoneHeld(t)
	wants("without the forgotten secret", before)
	// Memory of the heap, used when mmap fails, is counted as well.
	New(nil).Wipe()
	wants("after an empty secret", before)
}

// Not parallel, as above. Each secret has a different pattern, so that a page that
// was unmapped twice or too early changes the pattern of another secret.
func TestMemoryIsGivenBackOnce(t *testing.T) {
	waitNoneHeld(t)
	const goroutines, rounds = 16, 100
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			var kept []*Secret
			for i := range rounds {
				size := []int{1, 63, os.Getpagesize() - 1, os.Getpagesize(), os.Getpagesize() + 1, 5 * os.Getpagesize()}[i%6]
				want := bytes.Repeat([]byte{byte(g*rounds + i)}, size)
				s := New(bytes.Clone(want))
				err := s.Use(func(v []byte) error {
					if i%3 == 0 {
						s.Wipe()
					}
					if i%10 == 0 {
						runtime.GC()
					}
					if !bytes.Equal(v, want) {
						t.Errorf("a secret of %d bytes has changed", size)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				switch i % 3 {
				case 1:
					kept = append(kept, s)
				case 2: // not wiped
				}
			}
			for _, s := range kept {
				wipes := sync.WaitGroup{}
				for range 3 {
					wipes.Go(s.Wipe)
				}
				wipes.Wait()
			}
		})
	}
	wg.Wait()
	waitNoneHeld(t)
}
