package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Openers returns the other processes that have a file or block device open, like "qemu-system-x86 (pid 4711)", as far as
// this process can see. Unlike [CheckLock] it finds programs that do not lock.
func Openers(path string) ([]string, error) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return nil, err
	}
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	var found []string
	for _, fd := range fds {
		// The stat of another path may hang, so it comes after the name.
		if target, err := os.Readlink(fd); err != nil || !filepath.IsAbs(target) || strings.HasPrefix(fd, own) || !SameFile(fd, path) {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		if forked(process) && !SameFile(fd, path) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			continue // it has ended
		}
		opener := fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(process))
		if !slices.Contains(found, opener) {
			found = append(found, opener)
		}
	}
	return found, nil
}

// execWait bounds the wait for a new process to execute its program.
const execWait = time.Second

// forked reports whether a process, a directory in /proc, is a child of this one that has not executed its program yet, and
// waits until it has. Before that it has all descriptors of this process open.
func forked(process string) bool {
	pid, err := strconv.Atoi(filepath.Base(process))
	if err != nil {
		return false
	}
	if parent, err := hostproc.ParentOf(pid); err != nil || parent != os.Getpid() {
		return false
	}
	for began := time.Now(); time.Since(began) < execWait; time.Sleep(time.Millisecond) {
		if !SameFile(process+"/exe", "/proc/self/exe") {
			break
		}
	}
	return true
}

// ErrHeld reports that the kernel uses a block device: it is mounted, or another device is on it.
var ErrHeld = errors.New("the kernel uses the device")

// OpenUnheld opens a block device with flags of open(2), such as os.O_RDWR, for exclusive use: the kernel neither mounts it nor
// puts another device on it until it is closed. The error wraps [ErrHeld] and names the uses if the kernel uses it.
func OpenUnheld(found *fsutil.Handle, flags int) (*os.File, error) {
	f, err := found.Open(flags | unix.O_EXCL | unix.O_NONBLOCK)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: %s", ErrHeld, strings.Join(kernelUses(found), ", "))
	}
	return f, err
}

// CheckUnheld returns an error that wraps [ErrHeld] for a block device that the kernel uses.
func CheckUnheld(path string) error {
	found, err := fsutil.Find(path)
	if err != nil {
		return err
	}
	defer found.Close()
	if !isBlock(found.Mode()) {
		return nil
	}
	f, err := OpenUnheld(found, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return f.Close()
}

// kernelUses returns what the kernel uses a block device for, as far as this process sees it.
func kernelUses(found *fsutil.Handle) (out []string) {
	number := fmt.Sprintf("%d:%d", unix.Major(found.Stat.Rdev), unix.Minor(found.Stat.Rdev))
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // proc_pid_mountinfo(5); unreadable, nothing is said
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == number {
			out = append(out, "mounted at "+f[4])
		}
	}
	sys := "/sys/dev/block/" + number
	holders, _ := filepath.Glob(sys + "/holders/*")
	for _, h := range holders {
		out = append(out, "a part of "+filepath.Base(h))
	}
	partitions, _ := filepath.Glob(sys + "/*/partition")
	for _, p := range partitions {
		out = append(out, "its partition "+filepath.Base(filepath.Dir(p)))
	}
	if name, err := filepath.EvalSymlinks(sys); err == nil {
		swaps, _ := os.ReadFile("/proc/swaps")
		if strings.Contains(string(swaps), "/dev/"+filepath.Base(name)+" ") {
			out = append(out, "swap")
		}
	}
	if len(out) == 0 {
		return []string{"for what this process cannot see, such as a mount of another container"}
	}
	return out
}

// Discard gives the space of a part of a file or device back, whose content is then undefined (fallocate(2), which
// block devices pass on as a discard).
func Discard(f *os.File, offset, length int64) error {
	if length <= 0 {
		return nil
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length); err != nil {
		return fmt.Errorf("discard %d bytes of %s: %w", length, f.Name(), err)
	}
	return nil
}

// Remove removes the file to which a path leads, and the path itself if that is a link, and syncs the directories. Links are
// followed as by the other functions of this package. It returns an error if another file takes the name meanwhile.
func Remove(path string) error {
	found, err := fsutil.Find(path)
	if err != nil {
		return err
	}
	defer found.Close()
	real, err := os.Readlink(found.Name())
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(real))
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(dir)
	var there unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), filepath.Base(real), &there, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "find", Path: real, Err: err}
	}
	if there.Dev != found.Stat.Dev || there.Ino != found.Stat.Ino {
		return fmt.Errorf("%s: another file has taken its name: nothing was removed", real)
	}
	if err := unix.Unlinkat(int(dir.Fd()), filepath.Base(real), 0); err != nil {
		return &fs.PathError{Op: "remove", Path: real, Err: err}
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	if link, err := os.Lstat(path); err != nil || link.Mode()&fs.ModeSymlink == 0 {
		return nil // the usual case
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return fsutil.SyncDir(nil, filepath.Dir(path))
}

// fiemap is struct fiemap of Linux's linux/fiemap.h, with one extent.
type fiemap struct {
	start, length                 uint64
	flags, mapped, count, _       uint32
	logical, physical, extentSize uint64
	_                             [2]uint64
	extentFlags                   uint32
	_                             [3]uint32
}

const (
	fsIocFiemap  = 0xc020660b
	extentShared = 0x2000
	extentLast   = 0x1
)

// Shared reports whether another file, or a snapshot, shares a part of a file: a write to it leaves the old content there.
// A file system that cannot tell reports false.
func Shared(f *os.File, offset, length int64) bool {
	for end := offset + length; offset < end; {
		m := fiemap{start: uint64(offset), length: uint64(end - offset), count: 1}
		_, _, failed := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&m))) //nolint:gosec // an ioctl that package unix does not have
		if failed != 0 || m.mapped == 0 {
			return false
		}
		if m.extentFlags&extentShared != 0 {
			return true
		}
		next := int64(m.logical + m.extentSize)
		if m.extentFlags&extentLast != 0 || next <= offset {
			return false
		}
		offset = next
	}
	return false
}
