package hook

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// TestFoundAt: a hook counts if it had its name and its mode before libvirtd started.
func TestFoundAt(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-24 * time.Hour)
	soon := func() time.Time { return time.Now().Add(time.Minute) }
	install := func(t *testing.T) (Installation, string) {
		t.Helper()
		i := Installation{Dir: t.TempDir(), Program: "/bin/luksplug"}
		must.Get(i.Install())(t)
		return i, filepath.Join(i.Dir, "qemu")
	}
	script := func(t *testing.T, path string, mode os.FileMode) {
		t.Helper()
		must.OK(t, os.WriteFile(path, []byte("#!/bin/sh\n"), mode))
		must.OK(t, os.Chtimes(path, long, long))
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, i Installation, other string)
		started time.Time
		found   bool
	}{
		"only ours, new":           {func(*testing.T, Installation, string) {}, time.Now(), false},
		"ours, libvirtd restarted": {func(*testing.T, Installation, string) {}, soon(), true},
		"ours, installed again": {func(t *testing.T, i Installation, _ string) {
			must.OK(t, os.Chtimes(i.Path(), time.Time{}, long))
			i.Config = "/etc/other.yaml"
			must.Get(i.Install())(t)
		}, time.Now().Add(-time.Hour), true},
		"another, put there since with an old time": {func(t *testing.T, _ Installation, other string) {
			script(t, other, 0o755)
		}, time.Now().Add(-time.Hour), false},
		"another, and ours is later": {func(t *testing.T, i Installation, other string) {
			script(t, other, 0o755)
			must.OK(t, os.Chtimes(i.Path(), time.Time{}, time.Now().Add(time.Hour)))
		}, soon(), true},
		"another that is not executable": {func(t *testing.T, i Installation, other string) {
			script(t, other, 0o644)
			must.OK(t, os.Chtimes(i.Path(), time.Time{}, time.Now().Add(time.Hour)))
		}, soon(), false},
		"another by a link": {func(t *testing.T, i Installation, other string) {
			target := filepath.Join(t.TempDir(), "dispatcher")
			script(t, target, 0o755)
			must.OK(t, os.Symlink(target, other))
			must.OK(t, os.Chtimes(i.Path(), time.Time{}, time.Now().Add(time.Hour)))
		}, soon(), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, other := install(t)
			c.prepare(t, i, other)
			if found := i.foundAt(c.started); found != c.found {
				t.Errorf("found: %v", found)
			}
		})
	}
}
