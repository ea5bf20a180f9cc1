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

// Owner is whose a file is.
type Owner struct {
	Path string `json:"path"` // without symbolic links
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Label is the file's SELinux label, "" where it does not matter.
	Label string `json:"label,omitempty"`
}

// ErrNotRelabelable: the file is not one that may be given to somebody else.
var ErrNotRelabelable = errors.New("only a regular file with one name, or a block device, is given to QEMU's user")

// relabelable refuses what would give away more than the image: another name of the
// file may lie where its new owner was never meant to write.
func relabelable(stat *unix.Stat_t) error {
	switch kind := stat.Mode & unix.S_IFMT; {
	case kind == unix.S_IFBLK, kind == unix.S_IFREG && stat.Nlink == 1:
		return nil
	}
	return ErrNotRelabelable
}

// held is a file that cannot become another one while it is looked at and changed.
type held struct {
	fd   int
	path string
	stat unix.Stat_t
}

func hold(path string) (*held, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	h := &held{path: real}
	if h.fd, err = unix.Open(real, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return nil, &fs.PathError{Op: "open", Path: real, Err: err}
	}
	if err := unix.Fstat(h.fd, &h.stat); err != nil {
		h.close()
		return nil, &fs.PathError{Op: "stat", Path: real, Err: err}
	}
	return h, nil
}

func (h *held) close() { _ = unix.Close(h.fd) }

// link is a path that leads to the file whatever becomes of its name.
func (h *held) link() string { return fmt.Sprintf("/proc/self/fd/%d", h.fd) }

// owner returns whose the file is, with its label where that is asked for.
func (h *held) owner(labelled bool) (Owner, error) {
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

// give makes the file another's.
func (h *held) give(o Owner) error {
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

// Owners returns whose the files are now. A file that is not there is left out.
func Owners(files []File, labelled bool) []Owner {
	var out []Owner
	for _, f := range files {
		h, err := hold(f.Path)
		if err != nil {
			continue
		}
		if o, err := h.owner(labelled); err == nil {
			out = append(out, o)
		}
		h.close()
	}
	return out
}
