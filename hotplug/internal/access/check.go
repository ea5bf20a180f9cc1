package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/shell"
)

// File is a file or block device that QEMU is going to open.
type File struct {
	Path  string
	What  string // its role in the disk, such as "payload"
	Write bool   // QEMU also writes it
	// Implied is true for a file that only an image names, and the XML does not. It is
	// given to nobody, and no advice changes it: the image's writer has chosen it.
	Implied bool
}

// Named returns the files that the XML names.
func Named(files []File) []File {
	return slices.DeleteFunc(slices.Clone(files), func(f File) bool { return f.Implied })
}

// Problem is a file that QEMU may not open.
type Problem struct {
	File
	Reason string
	// Fix is a shell command that makes the file accessible, "" if there is none.
	Fix string
	// Relabel is true if giving the file to the user is enough: see [Registry].
	Relabel bool
}

// User is the identity with which a QEMU opens files.
type User = hostproc.User

// ErrUnknown reports that this process cannot find out what another user may open.
var ErrUnknown = hostproc.ErrUnknown

// Check returns those of the files that the user may not open. It opens none of them. The
// error wraps [ErrUnknown] if this process cannot find out.
func Check(u User, files []File) ([]Problem, error) {
	var out []Problem
	err := u.OnThread(func(become func() error) error {
		chains := make([]chain, len(files))
		defer func() {
			for _, c := range chains {
				c.close()
			}
		}()
		for i, f := range files {
			chains[i] = follow(f.Path)
		}
		if err := become(); err != nil {
			return err
		}
		for i, f := range files {
			if p := checkFile(u, f, chains[i]); p != nil {
				out = append(out, *p)
			}
		}
		return nil
	})
	return out, err
}

// chain is the directories on the way to a file, and the file. It is empty if a part
// cannot be found.
type chain []*fsutil.Handle

func (c chain) close() {
	for _, h := range c {
		h.Close()
	}
}

// follow finds the chain of a path as the calling user.
func follow(path string) chain {
	c, err := fsutil.Walk(path)
	if err != nil {
		return nil
	}
	return c
}

// may queries the kernel, which judges the thread's file system identity because of
// AT_EACCESS.
func may(fd int, path string, mode uint32) error {
	flags := unix.AT_EACCESS
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return unix.Faccessat2(fd, path, mode, flags)
}

// checkFile checks one file and returns nil if there is no problem.
func checkFile(u User, f File, c chain) *Problem {
	mode := uint32(unix.R_OK)
	if f.Write {
		mode |= unix.W_OK
	}
	err := may(unix.AT_FDCWD, f.Path, mode)
	if err == nil || errors.Is(err, unix.ENOSYS) { // before Linux 5.8: only QEMU finds out
		return nil
	}
	p := &Problem{File: f, Reason: err.Error()}
	switch {
	case errors.Is(err, unix.EROFS):
		p.Reason = "it is on a file system that is mounted read-only"
	case errors.Is(err, unix.ENOENT):
		p.Reason = "QEMU's own mount namespace does not have it: libvirt gives a VM a /dev of its own, so name the device in cgroup_device_acl of /etc/libvirt/qemu.conf, or turn that off with namespaces = []"
	case len(c) > 0:
		p.explain(u, c, mode)
	}
	return p
}

// explain sets the reason and the fix from the chain.
func (p *Problem) explain(u User, c chain, mode uint32) {
	var reasons, fixes []string
	last := len(c) - 1
	for _, dir := range c[:last] {
		if may(dir.FD(), "", unix.X_OK) != nil {
			reasons = append(reasons, "it may not pass through the directory "+describe(dir))
			fixes = append(fixes, "chmod "+class(u, dir.Stat)+"+x "+shell.Word(dir.Path))
		}
	}
	file := &handle{c[last]}
	if may(file.FD(), "", mode) != nil {
		reasons = append(reasons, "the file is "+describe(file.Handle))
		need, rights := uint32(0o400), "r"
		if p.Write {
			need, rights = 0o600, "rw"
		}
		enough, foreign := file.Stat.Mode&need == need, file.Stat.Uid != u.UID
		p.Relabel = len(fixes) == 0 && enough && foreign && file.relabelable() == nil
		if foreign {
			fixes = append(fixes, fmt.Sprintf("chown %d %s", u.UID, shell.Word(file.Path)))
		}
		if !enough {
			fixes = append(fixes, "chmod u+"+rights+" "+shell.Word(file.Path))
		}
	}
	if p.Implied || file.system() {
		p.Relabel, fixes = false, nil
	}
	if len(reasons) > 0 {
		p.Reason, p.Fix = strings.Join(reasons, ", and "), strings.Join(fixes, " && ")
	}
}

// describe describes a file for a message.
func describe(h *fsutil.Handle) string {
	return fmt.Sprintf("%s (%s:%s, mode %04o)", h.Path, hostproc.UserName(h.Stat.Uid), hostproc.GroupName(h.Stat.Gid), h.Stat.Mode&0o7777)
}

// class returns the part of a mode that counts for the user (inode(7)).
func class(u User, stat unix.Stat_t) string {
	switch {
	case stat.Uid == u.UID:
		return "u"
	case u.Member(stat.Gid):
		return "g"
	}
	return "o"
}
