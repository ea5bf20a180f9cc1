package access

import (
	"errors"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
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
// the new owner must not write. It also refuses the host's own files.
func (h *handle) relabelable() error {
	if h.system() {
		return fmt.Errorf("%s: %w", h.Path, ErrSystemFile)
	}
	switch kind := h.Stat.Mode & unix.S_IFMT; {
	case kind == unix.S_IFBLK, kind == unix.S_IFREG && h.Stat.Nlink == 1:
		return nil
	}
	return fmt.Errorf("%s: %w", h.Path, ErrNotRelabelable)
}

// handle is a file or directory that was found and not opened. What is checked by it is
// what is changed by it, even if the path changes.
type handle struct{ *fsutil.Handle }

// open returns a handle of the file at path. It follows links where [fsutil.Find] does.
func open(path string) (*handle, error) {
	h, err := fsutil.Find(path)
	if err != nil {
		return nil, err
	}
	return &handle{h}, nil
}

// owner returns the file's owner, with the SELinux label if labelled is true.
func (h *handle) owner(labelled bool) (Owner, error) {
	o := Owner{Path: h.Path, UID: h.Stat.Uid, GID: h.Stat.Gid}
	if !labelled {
		return o, nil
	}
	label, err := selinux.FileLabel(h.Name())
	if err != nil && !errors.Is(err, unix.ENODATA) {
		return o, fmt.Errorf("the SELinux label of %s: %w", h.Path, err)
	}
	o.Label = label
	return o, nil
}

// giveTo changes the file's owner.
func (h *handle) giveTo(o Owner) error {
	if h.Stat.Uid != o.UID || h.Stat.Gid != o.GID {
		if err := unix.Fchownat(h.FD(), "", int(o.UID), int(o.GID), unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("give %s to %s: %w", h.Path, hostproc.UserName(o.UID), err)
		}
		h.Stat.Uid, h.Stat.Gid = o.UID, o.GID
	}
	if o.Label == "" {
		return nil
	}
	if err := selinux.SetFileLabel(h.Name(), o.Label); err != nil {
		return fmt.Errorf("give %s the SELinux label %s: %w", h.Path, o.Label, err)
	}
	return nil
}
