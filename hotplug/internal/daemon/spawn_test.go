package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// Changes of a thread of its own do not affect the rest of the process.
func TestOwnThread(t *testing.T) {
	t.Parallel()
	open, err := os.Create(filepath.Join(t.TempDir(), "open"))
	must.OK(t, err)
	defer func() { _ = open.Close() }()
	inherited, err := unix.Dup(int(open.Fd())) // without close-on-exec
	must.OK(t, err)
	defer func() { _ = unix.Close(inherited) }()
	before := maskLine(t)
	for range 500 { // some of them meet the main thread first
		var thread, flags, mask int
		err := hostproc.OnThread(func() (err error) {
			thread = unix.Gettid()
			if err = seclude(); err != nil {
				return err
			}
			flags, err = unix.FcntlInt(uintptr(inherited), unix.F_GETFD, 0)
			mask = unix.Umask(0o077)
			return err
		})
		must.OK(t, err)
		if thread == os.Getpid() || flags != unix.FD_CLOEXEC || mask != 0o077 {
			t.Fatalf("thread %d of %d, descriptor flags %d, mask %03o", thread, os.Getpid(), flags, mask)
		}
	}
	if flags, err := unix.FcntlInt(uintptr(inherited), unix.F_GETFD, 0); err != nil || flags != 0 {
		t.Errorf("the process's own descriptor has flags %d, %v", flags, err)
	}
	if after := maskLine(t); after != before {
		t.Errorf("the process's mask was %q and is %q", before, after)
	}
}

func maskLine(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(proc(t, os.Getpid(), "status")) {
		if strings.HasPrefix(line, "Umask:") {
			return line
		}
	}
	t.Fatal("no Umask in /proc/self/status")
	return ""
}
