package passphrase

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openFile opens a file, pipe, terminal or block device for reading. It opens nothing else,
// and does not wait for the writer of a pipe.
func openFile(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	}
	if !readable(&st) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: it is no file, pipe or terminal", ErrInvalidSource)}
	}
	for {
		opened, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(opened), path), nil
	}
}

// readable reports whether a file can hold a passphrase. Of character devices only
// terminals can: opening another one can change it.
func readable(st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFBLK:
		return true
	case unix.S_IFCHR:
		major := unix.Major(st.Rdev) // Documentation/admin-guide/devices.txt of Linux
		return major == 4 || major == 5 || major >= 136 && major <= 143 || st.Rdev == unix.Mkdev(1, 3)
	}
	return false
}

// exposure returns the mode of a file with a name, and whether others than its owner have
// access to it. No user finds a file that has no name, such as one in memory.
func exposure(f *os.File) (fs.FileMode, bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, false
	}
	return fs.FileMode(st.Mode & 0o777), st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 0 && st.Mode&0o077 != 0
}
