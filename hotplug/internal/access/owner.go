package access

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Owner is the owner of a file.
type Owner struct {
	Path string `json:"path"` // without symbolic links
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Label is the file's SELinux label, "" if it does not matter.
	Label string `json:"label,omitempty"`
}

// ErrNotRelabelable reports that a file may not be given to another user.
var ErrNotRelabelable = errors.New("only a regular file with one name, or a block device, is given to QEMU's user")

// relabelable refuses files with a second name: that name may be in a directory in which
// the new owner must not write.
func relabelable(stat *unix.Stat_t) error {
	switch kind := stat.Mode & unix.S_IFMT; {
	case kind == unix.S_IFBLK, kind == unix.S_IFREG && stat.Nlink == 1:
		return nil
	}
	return ErrNotRelabelable
}

// handle is an O_PATH descriptor of a file or directory. It refers to the same file
// even if the path changes.
type handle struct {
	fd   int
	path string
	stat unix.Stat_t
}

// open returns a handle of the file that a path leads to through symbolic links.
func open(path string) (*handle, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return openReal(real)
}

func openReal(path string) (*handle, error) {
	h := &handle{path: path}
	var err error
	if h.fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Fstat(h.fd, &h.stat); err != nil {
		h.close()
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return h, nil
}

func (h *handle) close() { _ = unix.Close(h.fd) }

func (h *handle) link() string { return fmt.Sprintf("/proc/self/fd/%d", h.fd) }

// owner returns the file's owner, with the SELinux label if labelled is true.
func (h *handle) owner(labelled bool) (Owner, error) {
	o := Owner{Path: h.path, UID: h.stat.Uid, GID: h.stat.Gid}
	if !labelled {
		return o, nil
	}
	label, err := selinux.FileLabel(h.link())
	if err != nil && !errors.Is(err, unix.ENODATA) {
		return o, fmt.Errorf("the SELinux label of %s: %w", h.path, err)
	}
	o.Label = label
	return o, nil
}

// giveTo changes the file's owner.
func (h *handle) giveTo(o Owner) error {
	if h.stat.Uid != o.UID || h.stat.Gid != o.GID {
		if err := unix.Fchownat(h.fd, "", int(o.UID), int(o.GID), unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("give %s to %s: %w", h.path, hostproc.UserName(o.UID), err)
		}
		h.stat.Uid, h.stat.Gid = o.UID, o.GID
	}
	if o.Label == "" {
		return nil
	}
	if err := selinux.SetFileLabel(h.link(), o.Label); err != nil {
		return fmt.Errorf("give %s the SELinux label %s: %w", h.path, o.Label, err)
	}
	return nil
}
