package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotImage: the path is neither a regular file nor a block device.
	ErrNotImage = errors.New("not a regular file or block device")
	// ErrDamaged: the image has a known magic, and values that cannot be.
	ErrDamaged = errors.New("damaged image")
	// ErrUnsupported: the image uses a feature that this package does not
	// read. QEMU may.
	ErrUnsupported = errors.New("unsupported image feature")
)

// open opens path without creating, changing or waiting for anything, and refuses
// what is not an image. Errors wrap fs.ErrNotExist, fs.ErrPermission or
// ErrNotImage.
func open(path string, flags int) (*os.File, fs.FileInfo, error) {
	// Not blocking, because opening a pipe would wait for its other end.
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, special(path, err)
	}
	// Looked at once it is open: nobody can exchange it any more.
	info, err := f.Stat()
	if err == nil && !isImage(info.Mode()) {
		err = fmt.Errorf("%s: %w: it is %s", path, ErrNotImage, kind(info.Mode()))
	}
	if err != nil {
		closeRead(f)
		return nil, nil, err
	}
	return f, info, nil
}

// special makes a better error for what cannot even be opened: sockets never,
// folders and pipes without a reader not for writing.
func special(path string, err error) error {
	if info, statErr := os.Stat(path); statErr == nil && !isImage(info.Mode()) {
		return fmt.Errorf("%s: %w: it is %s", path, ErrNotImage, kind(info.Mode()))
	}
	return err // a *fs.PathError with the path
}

func isImage(mode fs.FileMode) bool { return mode.IsRegular() || isBlock(mode) }

func isBlock(mode fs.FileMode) bool {
	return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeCharDevice != 0:
		return "a character device"
	}
	return "something else"
}

// size returns the size in bytes of a file or block device: Stat knows only that
// of files.
func size(f *os.File) (int64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the size: %w", err)
	}
	return n, nil
}

// closeRead closes what nothing was written to: a failure loses nothing.
func closeRead(c io.Closer) { _ = c.Close() }

// Readable returns nil if this process can open the image for reading. Errors wrap
// fs.ErrNotExist, fs.ErrPermission or [ErrNotImage], and name the path.
func Readable(path string) error {
	f, _, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	closeRead(f)
	return nil
}

// Writable returns nil if this process can open the image for reading and writing.
// It tries, because permission bits do not tell (read-only mounts, read-only
// devices, immutable files, root); it does not write. Errors as for [Readable], and
// syscall.EROFS.
func Writable(path string) error {
	f, info, err := open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer closeRead(f)
	if !isBlock(info.Mode()) {
		return nil
	}
	// The kernel lets a read-only device be opened for writing, and fails the
	// writes (ioctl BLKROGET).
	readOnly, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err != nil {
		return &fs.PathError{Op: "ask whether read-only", Path: path, Err: err}
	}
	if readOnly != 0 {
		return &fs.PathError{Op: "open for writing", Path: path, Err: unix.EROFS}
	}
	return nil
}

// SameFile reports whether both paths lead to the same file, through links too, or
// to the same block device, by whatever device node. A path that cannot be looked
// at is the same as nothing.
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
