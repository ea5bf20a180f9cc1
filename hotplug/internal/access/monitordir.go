package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

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

// ErrMonitorDir reports that the parent cannot be used: it is a link, or users other than
// its owner can write to it.
var ErrMonitorDir = errors.New("the directory of luksplug's monitors cannot be used")

// Socket returns the path of the monitor of the VM with this UUID, in canonical form; ""
// for an invalid UUID.
func (m MonitorDirs) Socket(id string) string {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return ""
	}
	return filepath.Join(string(m), id, socketName)
}

// open opens the parent.
func (m MonitorDirs) open() (*os.Root, error) {
	refuse := func(path, reason string) error { return fmt.Errorf("%w: %s %s", ErrMonitorDir, path, reason) }
	for _, path := range []string{filepath.Dir(string(m)), string(m)} {
		info, err := os.Lstat(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMonitorDir, err)
		}
		st, _ := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.IsDir():
			return nil, refuse(path, "is not a directory")
		case st == nil || int(st.Uid) != os.Geteuid() && st.Uid != 0:
			return nil, refuse(path, "belongs to another user")
		case st.Mode&0o022 != 0:
			return nil, refuse(path, fmt.Sprintf("has mode %04o, and other users can write to it", st.Mode&0o7777))
		}
	}
	root, err := os.OpenRoot(string(m))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMonitorDir, err)
	}
	return root, nil
}

// Make makes the VM's directory, empty and owned by the user. It replaces what was there.
func (m MonitorDirs) Make(id string, owner User) error {
	if m.Socket(id) == "" {
		return fmt.Errorf("%w: %q is no UUID", ErrMonitorDir, id)
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
		return "", nil, fmt.Errorf("%w: %q is no UUID", ErrMonitorDir, id)
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
