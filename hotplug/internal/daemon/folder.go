package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// What a daemon's folder holds.
const (
	monitorName = "qmp.sock"
	socketName  = "nbd.sock"
	stderrName  = "stderr.log"
	stateName   = "daemon.json"
	newState    = "daemon.json.new" // becomes stateName
)

const maxSocketPath = 107 // bytes: sun_path of unix(7) without its final zero

// folder is a daemon's folder, opened once and worked on by its descriptor: its
// path may come to mean another folder.
//
// A flock(2) on the folder itself orders those that set up a daemon in it and
// those that clear it away.
type folder struct {
	path  string // absolute
	root  *os.Root
	file  *os.File // the folder too, for flock
	owner uint32
	made  bool // by the makeFolder that returned it
}

// checkPath makes path absolute, and refuses one that leaves no room for the
// name of a socket.
func checkPath(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("no folder is given: %w", ErrFolder)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	longest := max(len(monitorName), len(socketName))
	if n := len(path) + len("/") + longest; n > maxSocketPath {
		return "", fmt.Errorf("%w: %d bytes in %s, and Linux takes %d: choose a folder of at most %d",
			ErrPathTooLong, n, path, maxSocketPath, maxSocketPath-longest-len("/"))
	}
	return path, nil
}

// openFolder opens the folder at path if it may be a daemon's: private, and ours
// or, for root, anybody's. The error wraps fs.ErrNotExist if there is none.
func openFolder(path string) (*folder, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	// First of all by name, because opening what is not a folder could hang.
	named, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !named.IsDir() {
		return nil, fmt.Errorf("%s is a %s: %w", path, kindOf(named.Mode()), ErrFolder)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	file, err := root.Open(".")
	if err != nil {
		_ = root.Close() // nothing was written through it
		return nil, err
	}
	f := &folder{path: path, root: root, file: file}
	if err := f.check(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// check looks at the folder that was opened, and whether its path still means it.
func (f *folder) check() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(f.path); err != nil || !os.SameFile(info, named) {
		return fmt.Errorf("%s was replaced while it was opened: %w", f.path, fs.ErrNotExist)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner cannot be told: %w", f.path, ErrFolder)
	}
	f.owner = stat.Uid
	if self := os.Geteuid(); self != 0 && int(f.owner) != self {
		return fmt.Errorf("%s belongs to user %d, and we are user %d: %w", f.path, f.owner, self, ErrFolder)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, and others may enter it: make it 0700: %w", f.path, mode, ErrFolder)
	}
	return nil
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeSymlink:
		return "symbolic link"
	case 0:
		return "regular file"
	}
	return "special file"
}

func (f *folder) close() {
	_ = f.file.Close() // nothing is written through either; the lock ends here
	_ = f.root.Close()
}

// makeFolder returns the folder at path, locked, empty of what a dead daemon left,
// and belonging to the user as whom the daemon will run.
func makeFolder(ctx context.Context, path string, user *Credential) (*folder, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	for {
		err := os.Mkdir(path, 0o700)
		made := err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("folder of the storage daemon: %w", err)
		}
		f, err := openFolder(path)
		if errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
			continue // one that ended just now took it away
		}
		if err != nil {
			return nil, err
		}
		f.made = made
		err = f.lock(ctx)
		if err == nil {
			if err = f.prepare(user); err == nil {
				return f, nil
			}
		}
		f.close()
		if !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// prepare makes a locked folder ready for a new daemon.
func (f *folder) prepare(user *Credential) error {
	s, err := f.readState()
	if err == nil {
		h, err := s.open(f.owner)
		if err == nil {
			h.Close()
			return fmt.Errorf("%w in %s (process %d): end it first", ErrRunning, f.path, s.PID)
		}
		if !errors.Is(err, hostproc.ErrEnded) {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	uid, gid := user.Owner()
	if int(f.owner) != os.Geteuid() && int(f.owner) != uid {
		return fmt.Errorf("%s belongs to user %d, neither to us nor to the daemon's user %d: %w", f.path, f.owner, uid, ErrFolder)
	}
	if err := f.clear(); err != nil {
		return err
	}
	if err := f.expectEmpty(); err != nil {
		return err
	}
	if user == nil {
		return nil
	}
	if err := f.file.Chown(uid, gid); err != nil {
		err = fmt.Errorf("give %s to user %d (only root can run the daemon as another user): %w", f.path, uid, err)
		return errors.Join(err, f.undo())
	}
	f.owner = uint32(uid)
	return nil
}

// expectEmpty names what the folder holds.
func (f *folder) expectEmpty() error {
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return fmt.Errorf("%s holds files that are no storage daemon's (%s): %w", f.path, strings.Join(names, ", "), ErrFolder)
}

// lock waits until no one else works on the folder, at most until ctx ends. The
// error wraps fs.ErrNotExist if the folder was removed meanwhile.
func (f *folder) lock(ctx context.Context) error {
	err := fsutil.Lock(ctx, f.file)
	if errors.Is(err, fsutil.ErrLocked) {
		return fmt.Errorf("%s is being set up or removed by another process: %w", f.path, ctx.Err())
	}
	if err != nil {
		return err
	}
	// Whoever had the lock may have removed the folder, and another may have
	// made one of the same name, which this lock does not guard.
	return f.check()
}

// clear removes all that a daemon has in its folder.
func (f *folder) clear() error {
	var failed []error
	if s, err := f.readState(); err == nil && s.Kind == KindHelper {
		failed = append(failed, f.removeHelperSocket())
	}
	// The state goes last: until then somebody can find out whose remains these are.
	for _, name := range []string{monitorName, socketName, stderrName, newState, stateName} {
		if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("clear %s: %w", f.path, err))
		}
	}
	return errors.Join(failed...)
}

// undo takes back what makeFolder and start have done to a folder that was fit for
// a daemon.
func (f *folder) undo() error {
	if f.made {
		return f.remove()
	}
	return f.clear()
}

// remove takes the folder and all that a daemon has in it away. It must be locked:
// then its path means this folder until the last line.
func (f *folder) remove() error {
	if err := f.clear(); err != nil {
		return err
	}
	if err := f.expectEmpty(); err != nil {
		return err
	}
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the storage daemon's folder: %w", err)
	}
	return nil
}
