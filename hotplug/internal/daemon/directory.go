package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// The files in a daemon's directory.
const (
	monitorName = "qmp.sock"
	socketName  = "nbd.sock"
	stderrName  = "stderr.log"
	stateName   = "daemon.json"
	newState    = "daemon.json.new" // becomes stateName
)

const maxSocketPath = 107 // bytes: sun_path of unix(7) without its final zero

// directory is a daemon's directory. It is opened once and used by its descriptor, because
// its path may come to name another directory. A flock(2) on it orders the processes that
// set up a daemon in it or remove it.
type directory struct {
	path  string // absolute
	file  *os.File
	owner uint32
	made  bool // by makeDirectory
}

// checkPath makes path absolute, and refuses one that leaves no room for a socket's name.
func checkPath(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("no directory is given: %w", ErrDirectory)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	longest := max(len(monitorName), len(socketName))
	if n := len(path) + len("/") + longest; n > maxSocketPath {
		return "", fmt.Errorf("%w: %d bytes in %s, and Linux takes %d: choose a directory of at most %d",
			ErrPathTooLong, n, path, maxSocketPath, maxSocketPath-longest-len("/"))
	}
	return path, nil
}

// openDirectory opens the directory at path if a daemon can use it: it is private, and
// this user's or, for root, anyone's to whom root has given it, since only root and this
// user can change its parent. The error wraps fs.ErrNotExist if there is none.
func openDirectory(path string) (*directory, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	parent, err := fsutil.OpenDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("parent of the storage daemon's directory: %w", err)
	}
	defer fsutil.CloseRead(parent)
	file, err := fsutil.OpenAt(parent, filepath.Base(path), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a file or a symbolic link: %w", path, ErrDirectory)
	}
	if err != nil {
		return nil, err
	}
	d := &directory{path: path, file: file}
	if err := d.check(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// check checks the open directory, and whether its path still names it.
func (d *directory) check() error {
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(d.path); err != nil || !os.SameFile(info, named) {
		return fmt.Errorf("%s was replaced while it was opened: %w", d.path, fs.ErrNotExist)
	}
	d.owner = info.Sys().(*syscall.Stat_t).Uid
	if self := os.Geteuid(); self != 0 && int(d.owner) != self {
		return fmt.Errorf("%s belongs to user %d, and luksplug runs as user %d: %w", d.path, d.owner, self, ErrDirectory)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, and others may enter it: make it 0700: %w", d.path, mode, ErrDirectory)
	}
	return nil
}

func (d *directory) close() { _ = d.file.Close() } // and unlock

// makeDirectory returns the directory at path, locked, empty of a dead daemon's remains,
// and owned by the user that the daemon will run as.
func makeDirectory(ctx context.Context, path string, user *Credential) (*directory, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	if err := fsutil.CheckDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("parent of the storage daemon's directory: %w", err)
	}
	for {
		err := os.Mkdir(path, 0o700)
		made := err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("directory of the storage daemon: %w", err)
		}
		d, err := openDirectory(path)
		if err == nil {
			d.made = made
			if err = d.lock(ctx); err == nil {
				err = d.prepare(user)
			}
			if err == nil {
				return d, nil
			}
			d.close()
		}
		// Another process may have removed the directory since.
		if !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// prepare prepares a locked directory for a new daemon.
func (d *directory) prepare(user *Credential) error {
	_, h, err := d.running()
	if err == nil {
		h.Close()
		return fmt.Errorf("%w in %s (process %d): end it first", ErrRunning, d.path, h.Process().PID)
	}
	if !errors.Is(err, ErrNotRunning) {
		return err
	}
	uid, gid := user.Owner()
	if int(d.owner) != os.Geteuid() && int(d.owner) != uid {
		return fmt.Errorf("%s belongs to user %d, neither to this user nor to the daemon's user %d: %w", d.path, d.owner, uid, ErrDirectory)
	}
	if err := d.clear(); err != nil {
		return err
	}
	if user == nil {
		return nil
	}
	if err := d.file.Chown(uid, gid); err != nil {
		err = fmt.Errorf("give %s to user %d (only root can run the daemon as another user): %w", d.path, uid, err)
		return errors.Join(err, d.undo())
	}
	d.owner = uint32(uid)
	return nil
}

// lock waits until no other process uses the directory, at most until ctx ends. The error
// wraps fs.ErrNotExist if the directory was removed meanwhile.
func (d *directory) lock(ctx context.Context) error {
	err := fsutil.Lock(ctx, d.file)
	if errors.Is(err, fsutil.ErrLocked) {
		return fmt.Errorf("%s is being set up or removed by another process: %w", d.path, ctx.Err())
	}
	if err != nil {
		return err
	}
	return d.check() // the previous holder of the lock may have removed the directory
}

// clear removes the files of a daemon. The error names other files, which it leaves.
func (d *directory) clear() error {
	var failed []error
	if s, err := d.readState(); err == nil && s.Kind == KindHelper {
		failed = append(failed, d.removeHelperSocket())
	}
	// The state last: it says whose remains these are.
	for _, name := range []string{monitorName, socketName, stderrName, newState, stateName} {
		if err := unix.Unlinkat(int(d.file.Fd()), name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("clear %s: %s: %w", d.path, name, err))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	names, err := d.file.Readdirnames(-1)
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%s holds files that are no storage daemon's (%s): %w", d.path, strings.Join(names, ", "), ErrDirectory)
	}
	return err
}

// undo undoes what makeDirectory and a start have done.
func (d *directory) undo() error {
	if d.made {
		return d.remove()
	}
	return d.clear()
}

// remove removes the locked directory and a daemon's files in it.
func (d *directory) remove() error {
	if err := d.clear(); err != nil {
		return err
	}
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the storage daemon's directory: %w", err)
	}
	return nil
}

// create creates a file that belongs to the daemon's user. O_EXCL keeps it from following
// a link that this user has made.
func (d *directory) create(name string, flag int, user *Credential) (*os.File, error) {
	file, err := fsutil.OpenAt(d.file, name, flag|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil || user == nil {
		return file, err
	}
	if err := file.Chown(user.Owner()); err != nil {
		_ = file.Close() // empty
		return nil, err
	}
	return file, nil
}
