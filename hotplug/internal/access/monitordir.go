package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// MonitorDirs is the parent of directories in which QEMUs create the sockets of luksplug's
// monitors: each is named after its VM's UUID and belongs to QEMU's user, who can put
// anything into it. So all changes are made below an open directory, and no link is
// followed.
type MonitorDirs string

// socketName is the name of the socket in a VM's directory.
const socketName = "qmp"

// Socket returns the path of the monitor of the VM with this UUID, in canonical form; ""
// for an invalid UUID.
func (m MonitorDirs) Socket(id string) string {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return ""
	}
	return filepath.Join(string(m), id, socketName)
}

// open opens the parent. The errors are those of [fsutil.OpenDir].
func (m MonitorDirs) open() (*os.Root, error) {
	dir, err := fsutil.OpenDir(string(m))
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(dir)
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())) // the directory that was checked
}

// Make makes the VM's directory, empty and owned by the user. It replaces what was there. The
// errors of the parent are those of [MakeDir].
func (m MonitorDirs) Make(id string, owner User) error {
	if m.Socket(id) == "" {
		return fmt.Errorf("the VM of a monitor: %q is no UUID", id)
	}
	if err := MakeDir(string(m)); err != nil {
		return err
	}
	root, err := m.open()
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(root)
	err = root.RemoveAll(id)
	if err == nil {
		err = root.Mkdir(id, 0o700)
	}
	if err == nil {
		err = root.Chmod(id, 0o700) // regardless of the umask
	}
	if err == nil && int(owner.UID) != os.Geteuid() {
		err = root.Lchown(id, int(owner.UID), int(owner.GID))
	}
	if err != nil {
		return fmt.Errorf("directory for the monitor's socket, for QEMU's user: %w", err)
	}
	return nil
}

// Remove removes the VM's directory with its content. It does nothing if the directory or
// the parent does not exist, or the UUID is invalid.
func (m MonitorDirs) Remove(id string) error {
	if m.Socket(id) == "" {
		return nil
	}
	root, err := m.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(root)
	return root.RemoveAll(id)
}

// Open returns an address at which the VM's monitor can be dialled until close is called:
// that of the socket itself, which no link can exchange.
func (m MonitorDirs) Open(id string) (address string, end func(), err error) {
	path := m.Socket(id)
	if path == "" {
		return "", nil, fmt.Errorf("the VM of a monitor: %q is no UUID", id)
	}
	root, err := m.open()
	if err != nil {
		return "", nil, err
	}
	defer fsutil.CloseRead(root)
	dir, err := root.OpenFile(id, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", nil, err
	}
	defer fsutil.CloseRead(dir)
	socket, err := fsutil.OpenAt(dir, socketName, unix.O_PATH, 0)
	if err != nil {
		return "", nil, err
	}
	var own, parent unix.Stat_t
	err = errors.Join(unix.Fstat(int(socket.Fd()), &own), unix.Fstat(int(dir.Fd()), &parent))
	switch {
	case err != nil:
	case own.Mode&unix.S_IFMT != unix.S_IFSOCK:
		err = fmt.Errorf("%s is not a socket", path)
	case own.Uid != parent.Uid && own.Uid != 0:
		err = fmt.Errorf("%s belongs to user %d, and its directory to user %d", path, own.Uid, parent.Uid)
	}
	if err != nil {
		fsutil.CloseRead(socket)
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", socket.Fd()), func() { fsutil.CloseRead(socket) }, nil
}
