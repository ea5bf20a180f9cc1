package access

import (
	"fmt"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// dirMode lets QEMU's user pass through a directory to its own files. Only the owner can
// list it.
const dirMode = 0o711

// MakeDir creates a directory, with missing parents, through which QEMU's user can pass. An
// existing directory keeps its mode. The errors are those of [fsutil.MakeDir]: a directory
// that another user can change is refused.
func MakeDir(path string) error {
	if err := fsutil.MakeDir(path, dirMode); err != nil {
		return fmt.Errorf("make a directory that QEMU's user can pass through: %w", err)
	}
	return nil
}
