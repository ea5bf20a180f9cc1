package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
)

// ErrLabel reports that the file system takes no SELinux label, or that this user may not set one.
var ErrLabel = errors.New("the file cannot have this SELinux label")

// labelName is the extended attribute with the SELinux label of a file (xattr(7), "Extended security attributes").
const labelName = "security.selinux"

// attributes are those of the files of a volume.
type attributes struct {
	mode         fs.FileMode
	owner, group *int
	label        string
	made         string // the id of the re-encryption that makes the file, "" for none
}

// attributes returns those of a file with this mode. One that replaces another keeps its owner, unless the request has one.
func (r Request) attributes(mode fs.FileMode, replaces fs.FileInfo) attributes {
	a := attributes{mode, r.Owner, r.Group, r.Label, r.made}
	if replaces == nil {
		return a
	}
	if st, ok := replaces.Sys().(*syscall.Stat_t); ok {
		uid, gid := int(st.Uid), int(st.Gid)
		if a.owner == nil {
			a.owner = &uid
		}
		if a.group == nil {
			a.group = &gid
		}
	}
	return a
}

// noCOWFlag is FS_NOCOW_FL of the kernel's linux/fs.h.
const noCOWFlag = 0x00800000

// errNoCOW reports that a file system has no attribute against copy-on-write.
var errNoCOW = errors.New("its file system has no attribute that switches off copy-on-write")

// switchOffCOW switches off copy-on-write for an empty file, as `chattr +C`. The error wraps errNoCOW.
func switchOffCOW(f *os.File) error {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|noCOWFlag))
	}
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w (%w)", errNoCOW, err)
	case err != nil:
		return fmt.Errorf("switch off copy-on-write: %w", err)
	}
	return nil
}

// apply gives a file its owner, label and, last, its mode. Errors name no path.
func (a attributes) apply(f *os.File) error {
	uid, gid := -1, -1
	if a.owner != nil {
		uid = *a.owner
	}
	if a.group != nil {
		gid = *a.group
	}
	if uid >= 0 || gid >= 0 {
		if err := f.Chown(uid, gid); err != nil {
			return fmt.Errorf("give it to user %d and group %d: %w", uid, gid, err)
		}
	}
	if a.label != "" {
		if err := unix.Fsetxattr(int(f.Fd()), labelName, append([]byte(a.label), 0), 0); err != nil {
			return fmt.Errorf("%w, %q: %w", ErrLabel, a.label, err)
		}
	}
	if a.made != "" {
		if err := image.AttributeMade.SetFile(f, a.made); err != nil {
			return err
		}
	}
	return f.Chmod(a.mode)
}
