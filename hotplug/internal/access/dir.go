package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// MakeDir creates a directory, with missing parents, with mode 0711 regardless of the
// umask: QEMU's user can reach its own files in it, and only the owner can list it. An
// existing directory stays as it is.
func MakeDir(path string) error {
	const mode = 0o711
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := MakeDir(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		if info, e := os.Stat(path); e == nil && info.IsDir() {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("make a directory that QEMU's user can pass through: %w", err)
	}
	return os.Chmod(path, mode)
}
