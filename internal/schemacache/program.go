package schemacache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotTrusted: others could have made or changed the file; it is neither run nor read.
var ErrNotTrusted = errors.New("not to be trusted")

// program is the open file of an emulator.
type program struct {
	path string   // as the kernel reports it, without links
	file *os.File // O_PATH: for stat and execution only
	stat unix.Stat_t
	// foreign is set if the path names another file, or none, here: the program
	// belongs to another mount namespace, or has been replaced.
	foreign bool
}

// openProcess opens the program that a process runs.
func openProcess(pid int) (*program, error) { return openProgram(fmt.Sprintf("/proc/%d/exe", pid)) }

// openProgram opens a program that has an emulator's name.
func openProgram(path string) (*program, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	p := &program{file: os.NewFile(uintptr(fd), path)}
	if p.path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
		err = unix.Fstat(fd, &p.stat)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("examine %s: %w", path, err)
	}
	// A daemon that made the socket for QEMU, or a loader that runs it, must not be taken for QEMU.
	if name := filepath.Base(p.path); !strings.HasPrefix(name, "qemu") && !strings.HasPrefix(name, "kvm") {
		p.close()
		return nil, fmt.Errorf("%s is %w as an emulator: its name begins neither with qemu nor with kvm", p.path, ErrNotTrusted)
	}
	var here unix.Stat_t
	p.foreign = unix.Stat(p.path, &here) != nil || here.Dev != p.stat.Dev || here.Ino != p.stat.Ino
	return p, nil
}

func (p *program) close() { _ = p.file.Close() } // nothing was written

// identity distinguishes this file from every other, deleted ones included. It includes the time of
// the last change of the inode because no user can set it: a user can give the rest to their own
// file, and the number of a deleted file is used again.
func (p *program) identity() string {
	return fmt.Sprintf("%d:%d:%d:%d:%d.%09d:%d.%09d", p.stat.Dev, p.stat.Ino, p.stat.Uid, p.stat.Size,
		p.stat.Mtim.Sec, p.stat.Mtim.Nsec, p.stat.Ctim.Sec, p.stat.Ctim.Nsec)
}

// trust returns nil if the program may be run with the caller's rights.
func (p *program) trust() error {
	distrust := func(reason string) error { return fmt.Errorf("%s is %w: %s", p.path, ErrNotTrusted, reason) }
	if p.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return distrust("it is no regular file")
	}
	if err := trusted(p.stat.Uid, p.stat.Mode); err != nil {
		return fmt.Errorf("%s is %w", p.path, err)
	}
	if p.foreign {
		return distrust("the VM's program is not the file of that name here (replaced, or in a container)")
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(p.file.Fd()), &fs); err != nil {
		return fmt.Errorf("examine the file system of %s: %w", p.path, err)
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		return distrust("its file system is mounted nosuid")
	}
	return nil
}

// trusted returns nil if only the caller and root can change a file or directory of
// this owner and mode. An access control list shows in the group's bits (acl(5)).
func trusted(uid, mode uint32) error {
	switch {
	case uid != 0 && uid != uint32(os.Geteuid()):
		return fmt.Errorf("%w: it belongs to user %d", ErrNotTrusted, uid)
	case mode&0o022 != 0:
		return fmt.Errorf("%w: others may write it (mode %04o)", ErrNotTrusted, mode&0o7777)
	}
	return nil
}
