package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Not in parallel: it is about the whole process, which gets its old state back.
func TestNoCoreFiles(t *testing.T) {
	dumpable := func() int {
		n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if dumpable() == 0 {
		t.Skip("this process cannot be dumped anyway")
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })
	noCoreFiles()
	if n := dumpable(); n != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d", n)
	}
}
