package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// MakeFolder makes a folder, and those above it that are missing, which everybody may
// pass through and only its owner list: QEMU's user finds in it what is its own. A
// umask does not count. A folder that is there stays as it is.
func MakeFolder(path string) error {
	const mode = 0o711
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := MakeFolder(filepath.Dir(path)); err != nil {
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
		return fmt.Errorf("make a folder that QEMU's user can pass through: %w", err)
	}
	return os.Chmod(path, mode)
}
