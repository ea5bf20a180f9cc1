package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

var (
	// ErrNotImage reports that the path is neither a regular file nor a block device.
	ErrNotImage = errors.New("not a regular file or block device")
	// ErrDamaged reports an image with a known magic and impossible values.
	ErrDamaged = errors.New("damaged image")
	// ErrUnsupported reports a feature that this package does not read. QEMU may.
	ErrUnsupported = errors.New("unsupported image feature")
)

// open opens an image without creating or waiting for anything. It opens nothing but
// regular files and block devices, and follows links only where [fsutil.Find] does. Errors
// wrap fs.ErrNotExist, fs.ErrPermission, fsutil.ErrUnsafeLink or ErrNotImage.
func open(path string, flags int) (*os.File, fs.FileInfo, error) {
	found, err := fsutil.Find(path)
	if err != nil {
		return nil, nil, err
	}
	defer found.Close()
	if !isImage(found.Mode()) {
		return nil, nil, fmt.Errorf("%s: %w: it is %s", path, ErrNotImage, kind(found.Mode()))
	}
	f, err := found.Open(flags | unix.O_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		fsutil.CloseRead(f)
		return nil, nil, err
	}
	return f, info, nil
}

// Open opens an image with flags of open(2), such as os.O_RDWR, as [Probe] does: it opens nothing but regular files and block
// devices, and follows no link that another user can exchange. Errors wrap fs.ErrNotExist, fs.ErrPermission,
// fsutil.ErrUnsafeLink or [ErrNotImage].
func Open(path string, flags int) (*os.File, error) {
	f, _, err := open(path, flags)
	return f, err
}

func isImage(mode fs.FileMode) bool { return mode.IsRegular() || isBlock(mode) }

func isBlock(mode fs.FileMode) bool {
	return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeCharDevice != 0:
		return "a character device"
	}
	return "something else"
}

// size returns the size in bytes of a file or, unlike Stat, of a block device.
func size(f *os.File) (int64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the size: %w", err)
	}
	return n, nil
}

// Writable returns nil if this process can open the image for reading and writing. It opens
// the image, because permission bits are not enough (read-only mounts and devices, immutable
// files, root), and does not write. Errors wrap fs.ErrNotExist, fs.ErrPermission,
// [ErrNotImage] or syscall.EROFS, and name the path.
func Writable(path string) error {
	f, info, err := open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(f)
	if !isBlock(info.Mode()) {
		return nil
	}
	// The kernel opens a read-only device for writing, and then fails the writes.
	readOnly, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err != nil {
		return &fs.PathError{Op: "query whether read-only", Path: path, Err: err}
	}
	if readOnly != 0 {
		return &fs.PathError{Op: "open for writing", Path: path, Err: unix.EROFS}
	}
	return nil
}

// SameFile reports whether both paths lead, also through links, to the same file or, also
// by different device nodes, to the same block device. It returns false on an error.
func SameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	if errX != nil || errY != nil {
		return false
	}
	if os.SameFile(x, y) {
		return true
	}
	if !isBlock(x.Mode()) || !isBlock(y.Mode()) {
		return false
	}
	var s, t unix.Stat_t
	if unix.Stat(a, &s) != nil || unix.Stat(b, &t) != nil {
		return false
	}
	return s.Rdev == t.Rdev
}

// Opened reports whether a process has the file or block device at path open, and whether for
// writing. The path is looked up in this process's view of the file system. Descriptors that
// cannot be read are skipped, and an error is returned if none can.
func Opened(pid int, path string) (open, writable bool, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return false, false, fmt.Errorf("read the files that process %d has open: %w", pid, err)
	}
	for _, e := range entries {
		fd := filepath.Join(dir, "fd", e.Name())
		// A socket or a pipe leads to no path, and the stat of another path may hang.
		if target, err := os.Readlink(fd); err != nil || !filepath.IsAbs(target) || !SameFile(fd, path) {
			continue
		}
		open = true
		details, err := os.ReadFile(filepath.Join(dir, "fdinfo", e.Name()))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(details)) {
			if octal, is := strings.CutPrefix(line, "flags:"); is {
				flags, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 64)
				writable = writable || err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
			}
		}
	}
	return open, writable, nil
}
