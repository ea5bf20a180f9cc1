package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/qmp"
)

// vmLock keeps other runs of luksplug away from one VM, for as long as an
// operation takes. It is a flock(2) on a file, so that it ends with the process
// however the process ends.
type vmLock struct {
	file *os.File
}

const lockPoll = 50 * time.Millisecond

// lock takes the VM's lock. It waits for another run, at most for the time that
// the options give, and says so once.
func (vm *VM) lock(ctx context.Context) (*vmLock, error) {
	path, err := vm.lockPath(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, vm.opts.LockWait)
	defer cancel()
	for told := false; ; {
		l, err := tryLock(path)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, fsutil.ErrLocked) {
			return nil, fmt.Errorf("lock the VM: %w", err)
		}
		if !told && vm.opts.OnWait != nil {
			told = true
			vm.opts.OnWait(fmt.Sprintf("another luksplug run on this VM (process %d)", holder(path)))
		}
		select {
		case <-ctx.Done():
			return nil, &LockedError{Path: path, Holder: holder(path), Err: ctx.Err()}
		case <-time.After(lockPoll):
		}
	}
}

// tryLock takes the lock if it is free. The error wraps fsutil.ErrLocked
// if it is not.
func tryLock(path string) (*vmLock, error) {
	f, err := fsutil.OpenAt(nil, path, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	if err := fsutil.TryLock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	// The holder before us may have removed the file between our open and our
	// flock: then we hold the lock of a file that nobody else will open.
	mine, err1 := f.Stat()
	now, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, now) {
		_ = f.Close()
		return nil, fsutil.ErrLocked
	}
	// For the message of who waits; the lock itself does not need it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	}
	return &vmLock{file: f}, nil
}

// release gives the lock back and leaves no file behind.
func (l *vmLock) release() {
	_ = os.Remove(l.file.Name()) // before the unlock: after it the file may be another's
	_ = l.file.Close()
}

func holder(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// lockPath returns the VM's lock file, whose folder exists then.
func (vm *VM) lockPath(ctx context.Context) (string, error) {
	id, err := vm.identity(ctx)
	if err != nil {
		return "", err
	}
	dir := vm.opts.LockDir
	if dir == "" {
		if dir, err = defaultLockDir(); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder for lock files: %w", err)
	}
	return filepath.Join(dir, id+".lock"), nil
}

// defaultLockDir is /run/lock/luksplug for root, who is who usually runs this,
// and a folder of the user's own otherwise. One in /tmp is only taken when it
// belongs to the user: anybody can make a folder there.
func defaultLockDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/run/lock/luksplug", nil
	}
	return userDir()
}

// userDir is the folder for the files of a user who is not root.
func userDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "luksplug"), nil
	}
	dir := filepath.Join(os.TempDir(), "luksplug-"+strconv.Itoa(os.Geteuid()))
	if err := ownDir(dir); err != nil {
		return "", fmt.Errorf("%w: set XDG_RUNTIME_DIR", err)
	}
	return dir, nil
}

// ownDir refuses a folder of another user, in a place where anybody can make
// one. It need not be there.
func ownDir(dir string) error {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("folder %s: %w", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return fmt.Errorf("%s is not a folder that only this user can write to", dir)
	}
	return nil
}

// UUID returns the VM's; "" for a VM without one.
func (vm *VM) UUID(ctx context.Context) (string, error) {
	id, err := vm.identity(ctx)
	if _, e := uuid.Parse(id); e != nil {
		id = ""
	}
	return id, err
}

// identity returns a name of the VM that is the same for every way to reach its
// monitor on this host: its UUID, or for a VM without one the process that
// listens on the socket, or what little else is known.
func (vm *VM) identity(ctx context.Context) (string, error) {
	if vm.id == "" {
		id, err := vm.askIdentity(ctx)
		if err != nil {
			return "", err
		}
		vm.id = id
	}
	return vm.id, nil
}

func (vm *VM) askIdentity(ctx context.Context) (string, error) {
	cmd := qmp.Command{Execute: "query-uuid"}
	value, err := vm.query(ctx, cmd)
	if err != nil {
		return "", err
	}
	var answer struct{ UUID string }
	if err := json.Unmarshal(value, &answer); err != nil {
		return "", fmt.Errorf("the answer to query-uuid is not what QEMU documents: %w", err)
	}
	if strings.Trim(answer.UUID, "0-") != "" && !strings.ContainsAny(answer.UUID, "/.") {
		return answer.UUID, nil
	}
	if pid, ok := vm.client.PeerPID(); ok {
		return "pid-" + strconv.Itoa(pid), nil
	}
	if vm.opts.Name != "" {
		return "name-" + strings.Map(fileName, vm.opts.Name), nil
	}
	return "unnamed", nil
}

// fileName keeps what is safe in the name of a file.
func fileName(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
		return r
	}
	return '_'
}
