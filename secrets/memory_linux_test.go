package secrets

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// mappingOf returns the entry of the mapping that holds p in /proc/self/smaps.
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
	if err != nil {
		t.Fatal(err)
	}
}
