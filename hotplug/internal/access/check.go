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
	Path string
	// What it is to the disk, such as "payload".
	What  string
	Write bool // and not only read
}

// Problem is a file that QEMU may not open.
type Problem struct {
	File
	// Reason says why.
	Reason string
	// Fix is a shell command that would change that, "" where there is none.
	Fix string
	// Relabel tells that the file would do if it were the user's: see [Registry].
	Relabel bool
}

// User is the identity under which a QEMU opens files.
type User = hostproc.User

// ErrUnknown reports that this process cannot find out what another user may
// open.
var ErrUnknown = hostproc.ErrUnknown

// Check returns those of the files that the user may not open. Nothing is opened.
// The error wraps [ErrUnknown] where this process cannot find out.
func Check(u User, files []File) ([]Problem, error) {
	var out []Problem
	err := u.OnThread(func(become func() error) error {
		ways := make([]way, len(files))
		defer func() {
			for _, w := range ways {
				w.close()
			}
		}()
		for i, f := range files {
			ways[i] = look(f.Path)
		}
		if err := become(); err != nil {
			return err
		}
		for i, f := range files {
			if p := checkFile(u, f, ways[i]); p != nil {
				out = append(out, *p)
			}
		}
		return nil
	})
	return out, err
}

// way is what is passed on the way to a file, and the file.
type way struct {
	places []place // the file comes last, where it is there
	err    error   // why not all of it is known
}

// place is a folder or file, open for nothing but to ask about it.
type place struct {
	path string
	fd   int
	stat unix.Stat_t
}

func (w way) close() {
	for _, p := range w.places {
		_ = unix.Close(p.fd)
	}
}

// look goes the way as whoever calls it.
func look(path string) way {
	var w way
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		w.err = err
		return w
	}
	path = "/"
	add := func() {
		if w.err != nil {
			return
		}
		p := place{path: path}
		if p.fd, w.err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); w.err != nil {
			return
		}
		w.places = append(w.places, p)
		w.err = unix.Fstat(p.fd, &w.places[len(w.places)-1].stat)
	}
	add()
	for name := range strings.SplitSeq(strings.Trim(real, "/"), "/") {
		path = filepath.Join(path, name)
		add()
	}
	return w
}

// may asks the kernel. AT_EACCESS has it judge the thread's file system identity.
func may(fd int, path string, mode uint32) error {
	flags := unix.AT_EACCESS
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return unix.Faccessat2(fd, path, mode, flags)
}

// checkFile checks one file and returns nil if there is no problem.
func checkFile(u User, f File, w way) *Problem {
	mode := uint32(unix.R_OK)
	if f.Write {
		mode |= unix.W_OK
	}
	err := may(unix.AT_FDCWD, f.Path, mode)
	if err == nil || errors.Is(err, unix.ENOSYS) { // before Linux 5.8: QEMU tells
		return nil
	}
	p := &Problem{File: f, Reason: err.Error()}
	switch {
	case errors.Is(err, unix.EROFS):
		p.Reason = "it is on a file system that is mounted read-only"
		return p
	case errors.Is(err, unix.ENOENT):
		p.Reason = "QEMU's own mount namespace does not have it: libvirt gives a VM a /dev of its own, so name the device in cgroup_device_acl of /etc/libvirt/qemu.conf, or turn that off with namespaces = []"
		return p
	case w.err != nil || len(w.places) == 0:
		return p
	}
	return explain(u, p, w, mode)
}

// explain says what on the way is in the way.
func explain(u User, p *Problem, w way, mode uint32) *Problem {
	var reasons, fixes []string
	last := len(w.places) - 1
	for _, folder := range w.places[:last] {
		if may(folder.fd, "", unix.X_OK) != nil {
			reasons = append(reasons, fmt.Sprintf("it may not pass through the folder %s", folder.describe()))
			fixes = append(fixes, "chmod "+class(u, folder.stat)+"+x "+shell.Word(folder.path))
		}
	}
	file := w.places[last]
	if may(file.fd, "", mode) != nil {
		reasons = append(reasons, "the file is "+file.describe())
		need := uint32(0o400)
		if mode&unix.W_OK != 0 {
			need |= 0o200
		}
		enough := file.stat.Mode&need == need
		p.Relabel = len(fixes) == 0 && enough && file.stat.Uid != u.UID && relabelable(&file.stat) == nil
		if file.stat.Uid != u.UID {
			fixes = append(fixes, fmt.Sprintf("chown %d %s", u.UID, shell.Word(file.path)))
		}
		if !enough {
			fixes = append(fixes, "chmod u+"+map[bool]string{true: "rw", false: "r"}[p.Write]+" "+shell.Word(file.path))
		}
	}
	if len(reasons) > 0 {
		p.Reason, p.Fix = strings.Join(reasons, ", and "), strings.Join(fixes, " && ")
	}
	return p
}

func (p place) describe() string {
	return fmt.Sprintf("%s (%s:%s, mode %04o)", p.path, hostproc.UserName(p.stat.Uid), hostproc.GroupName(p.stat.Gid), p.stat.Mode&0o7777)
}

// class is the part of a mode that counts for the user (inode(7)).
func class(u User, stat unix.Stat_t) string {
	switch {
	case stat.Uid == u.UID:
		return "u"
	case u.Member(stat.Gid):
		return "g"
	}
	return "o"
}
