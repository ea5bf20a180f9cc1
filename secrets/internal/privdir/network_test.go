package privdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// TestStaleHandle: a stale handle is met by opening the directory anew, once. No local file
// system has stale handles, so read reports them; TestKeystoreOverNFS has real ones.
func TestStaleHandle(t *testing.T) {
	t.Parallel()
	for stale, want := range map[int]struct {
		calls int
		err   error
	}{0: {1, nil}, 1: {2, nil}, 2: {2, unix.ESTALE}} {
		path := filepath.Join(t.TempDir(), "keys")
		must.OK(t, os.Mkdir(path, 0o700))
		f := must.Get(Open(path))(t)
		defer f.Close()
		// By the second call another directory is there.
		must.OK(t, os.Rename(path, path+".old"), os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "new"), nil, 0o600))
		calls := 0
		names, err := fresh(f, func(d *Dir) ([]string, error) {
			if calls++; calls <= stale {
				return nil, fmt.Errorf("read it: %w", unix.ESTALE)
			}
			return d.names()
		})
		if calls != want.calls || !errors.Is(err, want.err) {
			t.Errorf("stale %d times: %d calls, %v", stale, calls, err)
		}
		if found := len(names) == 1 && names[0] == "new"; found != (stale == 1) {
			t.Errorf("stale %d times: names %q", stale, names)
		}
	}
	path := filepath.Join(t.TempDir(), "keys")
	must.OK(t, os.Mkdir(path, 0o700))
	f := must.Get(Open(path))(t)
	defer f.Close()
	must.OK(t, os.Remove(path))
	if _, err := fresh(f, func(*Dir) (int, error) { return 0, unix.ESTALE }); !errors.Is(err, secrets.ErrUnreachable) {
		t.Errorf("of a directory that is gone: %v", err)
	}
}
