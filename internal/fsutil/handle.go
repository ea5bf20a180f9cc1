package fsutil

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Handle is a file that was found and not opened (O_PATH): to find a device or pipe has no
// effect on it. It refers to the same file even if the path changes.
type Handle struct {
	// Path is the file's path without symbolic links.
	Path string
	// Stat is the file's status when it was found.
	Stat unix.Stat_t
	fd   int
}

// ErrUnsafeLink reports a symbolic link that another user can exchange.
var ErrUnsafeLink = errors.New("a symbolic link is in a directory that other users may write to: give the path without the link")

// Find finds the file at path. It follows a symbolic link only in a directory that belongs to
// root or to the caller, and that no other user may write to; the error wraps
// [ErrUnsafeLink] for any other link. The caller closes the handle.
func Find(path string) (*Handle, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(path, "..") { // Abs would ignore a link before it
		how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
		fd, err := retry(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, absolute, how) })
		switch {
		case err == nil:
			return newHandle(fd, absolute)
		// A link; a kernel before 5.6; a container that forbids the call.
		case !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM):
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
	steps, err := Walk(path)
	if err != nil {
		return nil, err
	}
	last := len(steps) - 1
	for _, h := range steps[:last] {
		h.Close()
	}
	return steps[last], nil
}

// Walk is [Find] that returns all directories on the way to the file, from the root on, and
// the file. The caller closes the handles.
func Walk(path string) ([]*Handle, error) {
	absolute := path
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		absolute = dir + "/" + path
	}
	w := walk{left: strings.Split(absolute, "/")}
	err := w.start()
	for err == nil && len(w.left) > 0 {
		name := w.left[0]
		w.left = w.left[1:]
		err = w.step(name)
	}
	if err != nil {
		w.close(0)
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return w.steps, nil
}

// walk is a path that is followed part by part.
type walk struct {
	steps []*Handle
	left  []string // the parts that are still to be followed
	links int
}

const maxLinks = 40 // as the kernel's MAXSYMLINKS

func (w *walk) start() error {
	w.close(0)
	fd, err := retry(func() (int, error) { return unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	return w.add(fd, "/")
}

func (w *walk) add(fd int, path string) error {
	h, err := newHandle(fd, path)
	if err == nil {
		w.steps = append(w.steps, h)
	}
	return err
}

// close closes the handles from the one with this number on.
func (w *walk) close(from int) {
	for _, h := range w.steps[from:] {
		h.Close()
	}
	w.steps = w.steps[:from]
}

func (w *walk) step(name string) error {
	at := w.steps[len(w.steps)-1]
	switch name {
	case "", ".":
		return nil
	case "..":
		if len(w.steps) > 1 {
			w.close(len(w.steps) - 1)
		}
		return nil
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(at.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	if err := w.add(fd, filepath.Join(at.Path, name)); err != nil {
		return err
	}
	found := w.steps[len(w.steps)-1]
	if found.Stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil
	}
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	if !ownDirectory(&at.Stat) {
		return fmt.Errorf("%s: %w", found.Path, ErrUnsafeLink)
	}
	target, err := readLink(found.fd)
	if err != nil {
		return err
	}
	w.close(len(w.steps) - 1)
	w.left = slices.Concat(strings.Split(target, "/"), w.left)
	if filepath.IsAbs(target) {
		return w.start()
	}
	return nil
}

// ownDirectory reports whether only root and the caller can make and exchange entries of a
// directory. In a directory with the sticky bit others can make them.
func ownDirectory(stat *unix.Stat_t) bool {
	return (stat.Uid == 0 || int(stat.Uid) == os.Geteuid()) && stat.Mode&0o022 == 0
}

func readLink(fd int) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return string(target[:max(n, 0)]), err
}

func retry(call func() (int, error)) (int, error) {
	for {
		fd, err := call()
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func newHandle(fd int, path string) (*Handle, error) {
	h := &Handle{Path: path, fd: fd}
	if err := unix.Fstat(fd, &h.Stat); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// FD returns the handle's descriptor, for system calls that take one of O_PATH.
func (h *Handle) FD() int { return h.fd }

// Close closes the handle.
func (h *Handle) Close() { _ = unix.Close(h.fd) }

// Name returns a path of this process that leads to the file, whatever is at its own path.
func (h *Handle) Name() string { return fmt.Sprintf("/proc/self/fd/%d", h.fd) }

// Mode returns the kind of the file and its permissions.
func (h *Handle) Mode() fs.FileMode {
	mode := fs.FileMode(h.Stat.Mode & 0o777)
	switch h.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	default:
		mode |= fs.ModeIrregular
	}
	return mode
}

// Open opens the file that was found. The handle stays open.
func (h *Handle) Open(flags int) (*os.File, error) {
	fd, err := retry(func() (int, error) { return unix.Open(h.Name(), flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: h.Path, Err: err}
	}
	return os.NewFile(uintptr(fd), h.Path), nil
}

// ErrTooLarge reports that a file has more bytes than it may have.
var ErrTooLarge = errors.New("it is too large")

// ReadFile reads a regular file of at most limit bytes. It neither blocks at, nor opens,
// any other kind of file: the errors are those of [OpenRegular], or wrap [ErrTooLarge].
// Like OpenRegular it does not follow a link.
func ReadFile(dir *os.File, name string, limit int64) ([]byte, error) {
	f, err := OpenRegular(dir, name)
	if err != nil {
		return nil, err
	}
	return readBounded(f, name, limit)
}

// OpenLinked is [OpenRegular] for a path whose links are followed: one that the caller's own
// user has given.
func OpenLinked(path string) (*os.File, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return OpenFound(fd, path)
}

// ReadLinked is [ReadFile] by [OpenLinked].
func ReadLinked(path string, limit int64) ([]byte, error) {
	f, err := OpenLinked(path)
	if err != nil {
		return nil, err
	}
	return readBounded(f, path, limit)
}

func readBounded(f *os.File, name string, limit int64) ([]byte, error) {
	defer CloseRead(f)
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)}
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}
