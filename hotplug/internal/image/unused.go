package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
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

// ErrHeld reports that the kernel uses a block device: it is mounted, or another device is on it.
var ErrHeld = errors.New("the kernel uses the device, as by a mount, LVM or RAID")

// CheckUnheld returns an error that wraps [ErrHeld] for a block device that the kernel uses (open(2), O_EXCL).
func CheckUnheld(path string) error {
	f, info, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(f)
	if !isBlock(info.Mode()) {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w", path, ErrHeld)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	return unix.Close(fd)
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
