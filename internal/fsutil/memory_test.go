package fsutil_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// TestMemoryFile: a file in memory has what was written, and is not changed once it is sealed.
func TestMemoryFile(t *testing.T) {
	t.Parallel()
	f := must.Get(fsutil.MemoryFile("luksplug-test", func(f *os.File) error {
		_, err := f.WriteAt([]byte("content"), 3)
		return err
	}))(t)
	defer fsutil.CloseRead(f)
	must.OK(t, fsutil.Seal(f))
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("a sealed file was written to: %v", err)
	}
	b := make([]byte, 20)
	if n, _ := f.ReadAt(b, 0); string(b[:n]) != "\x00\x00\x00content" {
		t.Errorf("read %q", b[:n])
	}
	failed := errors.New("failed")
	if _, err := fsutil.MemoryFile("luksplug-test", func(*os.File) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
}
