package fsutil

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUntrusted reports that a user other than root and the caller has made a file or
// directory, or can change it.
var ErrUntrusted = errors.New("untrusted")

// UntrustedError is an [ErrUntrusted] with the file or directory.
type UntrustedError struct {
	Path string
	// Reason tells what is wrong with it and how to correct that.
	Reason string
}

// Error implements error.
func (e *UntrustedError) Error() string { return e.Path + " " + e.Reason }

// Unwrap returns [ErrUntrusted].
func (e *UntrustedError) Unwrap() error { return ErrUntrusted }

// OpenDir opens a directory that only root and the caller can change. It and every
// directory on its path must belong to root or the caller. Others may write to a
// directory on the path only if its sticky bit is set, and not to the directory itself,
// which must not be a symbolic link. A link on the path is followed if root or the caller
// owns it. Open descriptors are checked, so that nothing can be replaced between check
// and use, and names in the directory stay safe to use afterwards.
//
// The error wraps [ErrUntrusted] for a directory that is refused, and fs.ErrNotExist for
// a missing one.
func OpenDir(path string) (*os.File, error) {
	return openDir(path, walker{})
}

// OpenDirOf is [OpenDir] for a directory that may also belong to the user with that id, who
// gets what is written there.
func OpenDirOf(path string, user int) (*os.File, error) {
	return openDir(path, walker{user: user})
}

// MakeDir creates a directory, with missing parents, with that mode regardless of the
// umask. An existing directory keeps its mode, and must be one that [OpenDir] opens.
func MakeDir(path string, mode fs.FileMode) error {
	dir, err := openDir(path, walker{make: mode})
	if err != nil {
		return err
	}
	return dir.Close()
}

// CheckDir returns nil if [OpenDir] opens the directory, or if it does not exist and
// could be created with [MakeDir].
func CheckDir(path string) error {
	dir, err := openDir(path, walker{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return dir.Close()
}

func openDir(path string, w walker) (*os.File, error) {
	dir, err := w.walk(path)
	if err != nil {
		return nil, err
	}
	defer CloseRead(dir)
	return openAs(dir, ".", path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// CreatePrivate creates a file that only the caller can read, for writing. An existing
// file of the caller's is removed first, since another process may have it open; anything
// else with that name is refused, with [ErrUntrusted]. No symbolic link is followed that
// a user other than root and the caller owns.
func CreatePrivate(path string) (*os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, err := walker{passing: true}.walk(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer CloseRead(dir)
	name, flags := filepath.Base(path), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL
	f, err := openAs(dir, name, path, flags, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	if err := removeOwn(dir, name, path); err != nil {
		return nil, err
	}
	return openAs(dir, name, path, flags, 0o600)
}

// AppendPrivate opens a file for appending, and creates it readable for the caller only. An
// existing one must be a regular file of the caller's with one name. It keeps its mode.
// The error wraps [ErrUntrusted] otherwise, and as that of [CreatePrivate] does.
func AppendPrivate(path string) (*os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, err := walker{passing: true}.walk(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer CloseRead(dir)
	name := filepath.Base(path)
	f, err := openAs(dir, name, path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	// O_PATH, because opening some devices has an effect.
	found, err := openAs(dir, name, path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer CloseRead(found)
	var st unix.Stat_t
	if err := unix.Fstat(int(found.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != uint32(os.Geteuid()) || st.Nlink != 1 {
		return nil, &UntrustedError{path, "is not a regular file with one name that belongs to this user: name another file"}
	}
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", found.Fd()), os.O_WRONLY|os.O_APPEND, 0)
}

// removeOwn removes a regular file of the caller's.
func removeOwn(dir *os.File, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at(dir), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		return &UntrustedError{path, "is a symbolic link: name the file itself"}
	case kind != unix.S_IFREG:
		return &UntrustedError{path, "is not a regular file: name another file"}
	case st.Uid != uint32(os.Geteuid()):
		return &UntrustedError{path, fmt.Sprintf("belongs to user %d: name another file, or remove it", st.Uid)}
	}
	if err := unix.Unlinkat(at(dir), name, 0); err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// walker opens a directory step by step from the root directory.
type walker struct {
	// make, unless 0, is the mode of missing directories, which are created.
	make fs.FileMode
	// passing accepts directories of other users, but not their links.
	passing bool
	// user, unless 0, may own directories, as root and the caller may.
	user int
}

// walk returns an O_PATH descriptor of the directory.
func (w walker) walk(path string) (*os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, err := OpenAt(nil, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	left, links := names(path), 0
	for len(left) > 0 {
		next, err := w.step(dir, left[0], len(left) == 1)
		var link *linkError
		switch {
		case err == nil:
			CloseRead(dir)
			dir, left = next, left[1:]
			continue
		case errors.As(err, &link) && links < maxLinks:
			links++
			left = slices.Concat(names(link.target), left[1:])
			if !filepath.IsAbs(link.target) {
				continue
			}
			CloseRead(dir)
			if dir, err = OpenAt(nil, "/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
				return nil, err
			}
			continue
		case link != nil:
			err = &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
		}
		CloseRead(dir)
		return nil, err
	}
	return dir, nil
}

// names returns the names in a path.
func names(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}

// linkError reports a symbolic link that may be followed.
type linkError struct{ target string }

func (e *linkError) Error() string { return "link to " + e.target }

// step opens the directory name in dir, the last one of the path or one on the way. The
// error is a [*linkError] for a link to follow.
func (w walker) step(dir *os.File, name string, last bool) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	f, err := openAs(dir, name, path, unix.O_PATH, 0)
	made := false
	if errors.Is(err, fs.ErrNotExist) && w.make != 0 {
		err = unix.Mkdirat(at(dir), name, uint32(w.make.Perm()))
		if made = err == nil; !made && !errors.Is(err, unix.EEXIST) { // another process was first
			return nil, &fs.PathError{Op: "mkdir", Path: path, Err: err}
		}
		f, err = openAs(dir, name, path, unix.O_PATH, 0)
	}
	if err != nil {
		return nil, err
	}
	err = w.check(f, last)
	if err == nil && made {
		err = setMode(f, w.make)
	}
	if err != nil {
		CloseRead(f)
		return nil, err
	}
	return f, nil
}

// setMode sets the mode of a directory that was opened with O_PATH.
func setMode(f *os.File, mode fs.FileMode) error {
	dir, err := OpenAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(dir.Chmod(mode), dir.Close())
}

// check refuses what [OpenDir] refuses. The error is a [*linkError] for a link to follow.
func (w walker) check(f *os.File, last bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	kind, mode := st.Mode&unix.S_IFMT, st.Mode&0o7777
	foreign := st.Uid != 0 && st.Uid != uint32(os.Geteuid()) && st.Uid != uint32(w.user)
	untrusted := func(format string, args ...any) error {
		return &UntrustedError{f.Name(), fmt.Sprintf(format, args...)}
	}
	switch {
	case kind == unix.S_IFLNK && (foreign || last && !w.passing):
		return untrusted("is a symbolic link of user %d: replace it by a directory", st.Uid)
	case kind == unix.S_IFLNK:
		return linkOf(f)
	case kind != unix.S_IFDIR:
		return untrusted("is not a directory: move it away")
	case w.passing:
		return nil
	case foreign:
		return untrusted("belongs to user %d, and must belong to %s: move it away", st.Uid, owners())
	case last && mode&0o022 != 0:
		return untrusted("has mode %04o, so others can write to it: check what is in it, and run chmod go-w on it", mode)
	case mode&unix.S_ISVTX == 0 && (mode&0o002 != 0 || mode&0o020 != 0 && st.Gid != 0 && st.Gid != uint32(os.Getegid())):
		return untrusted("has mode %04o, so others can replace what is in it: run chmod go-w on it", mode)
	}
	return nil
}

// owners names the users whose directories are trusted.
func owners() string {
	if me := os.Geteuid(); me != 0 {
		return fmt.Sprintf("root or user %d", me)
	}
	return "root"
}

// linkOf returns the target of a link that was opened with O_PATH.
func linkOf(f *os.File) error {
	target, err := readLink(int(f.Fd()))
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: f.Name(), Err: err}
	}
	return &linkError{target}
}
