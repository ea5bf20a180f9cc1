package access

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

func TestMakeDir(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	must.OK(t, os.Chmod(top, 0o700))
	path := filepath.Join(top, "a", "b")
	for range 2 {
		must.OK(t, MakeDir(path))
	}
	for path, mode := range map[string]os.FileMode{top: 0o700, filepath.Dir(path): 0o711, path: 0o711} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, error %v", path, info.Mode(), err)
		}
	}
	if err := MakeDir(filepath.Join(file(t, filepath.Join(top, "file"), 0o600), "below")); err == nil {
		t.Error("a directory was created below a file")
	}
}
