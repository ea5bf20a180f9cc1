package access

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/shell"
)

// File is a file or block device that QEMU is going to open.
type File struct {
	Path  string
	What  string // its role in the disk, such as "payload"
	Write bool   // QEMU also writes it
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
				for _, h := range c {
					h.close()
				}
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
// cannot be opened.
type chain []*handle

// follow opens the chain of a path as the calling user.
func follow(path string) chain {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	var c chain
	at := "/"
	for name := range strings.SplitSeq(real, "/") {
		at = filepath.Join(at, name)
		h, err := openReal(at)
		if err != nil {
			for _, h := range c {
				h.close()
			}
			return nil
		}
		c = append(c, h)
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
		if may(dir.fd, "", unix.X_OK) != nil {
			reasons = append(reasons, fmt.Sprintf("it may not pass through the directory %s", dir))
			fixes = append(fixes, "chmod "+class(u, dir.stat)+"+x "+shell.Word(dir.path))
		}
	}
	file := c[last]
	if may(file.fd, "", mode) != nil {
		reasons = append(reasons, fmt.Sprintf("the file is %s", file))
		need, rights := uint32(0o400), "r"
		if p.Write {
			need, rights = 0o600, "rw"
		}
		enough, foreign := file.stat.Mode&need == need, file.stat.Uid != u.UID
		p.Relabel = len(fixes) == 0 && enough && foreign && relabelable(&file.stat) == nil
		if foreign {
			fixes = append(fixes, fmt.Sprintf("chown %d %s", u.UID, shell.Word(file.path)))
		}
		if !enough {
			fixes = append(fixes, "chmod u+"+rights+" "+shell.Word(file.path))
		}
	}
	if len(reasons) > 0 {
		p.Reason, p.Fix = strings.Join(reasons, ", and "), strings.Join(fixes, " && ")
	}
}

// String describes the file for a message.
func (h *handle) String() string {
	return fmt.Sprintf("%s (%s:%s, mode %04o)", h.path, hostproc.UserName(h.stat.Uid), hostproc.GroupName(h.stat.Gid), h.stat.Mode&0o7777)
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
