package daemon

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// child is a process that this one has started.
type child struct {
	process *os.Process
	done    chan struct{} // closed when it was reaped
	state   *os.ProcessState
	err     error // of the wait; state and err are valid after done
}

// program is a program with its arguments, and with env in addition to the fixed environment.
type program struct {
	path      string
	args, env []string
	user      *Credential // that it runs as; nil is this process's user
	tied      bool        // it is killed when this process ends
}

// spawn starts a program that inherits nothing of this process but stderr, and outlives it
// unless it is tied to it.
func spawn(p program, stderr *os.File) (*child, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }() // nothing was written
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, p.env...),
		Files: []uintptr{null.Fd(), null.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: p.user.Syscall()},
	}
	c := &child{done: make(chan struct{})}
	var end chan struct{} // of the thread
	if p.tied {
		attr.Sys.Pdeathsig, end = unix.SIGKILL, c.done
	}
	var pid int
	var limited error
	err = hostproc.OnThreadUntil(end, func() (err error) {
		if err = seclude(); err != nil {
			return err
		}
		// os.StartProcess would open a pidfd among this thread's descriptors, and use
		// it in another thread.
		pid, err = syscall.ForkExec(p.path, append([]string{p.path}, p.args...), attr)
		if err == nil {
			limited = limitCore(pid, p.user)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.process, err = os.FindProcess(pid); err != nil {
		return nil, err
	}
	go func() {
		c.state, c.err = c.process.Wait()
		close(c.done)
	}()
	if limited != nil {
		c.kill()
		return nil, limited
	}
	return c, nil
}

// kill ends the child and waits until it is reaped.
func (c *child) kill() {
	_ = c.process.Kill() // it may have ended already
	<-c.done
}

// exit returns how the child has ended.
func (c *child) exit() error {
	if c.err != nil {
		return c.err
	}
	return fmt.Errorf("it ended at once (%s)", c.state)
}

// limitCore keeps a process from writing its memory to a core file. The process must not
// have a secret yet, and the calling thread must end soon: its real user may change.
//
// The limit is 1 byte: if cores are piped to a program, Linux ignores every other limit,
// and starts no program at 1 (core(5)). A core file needs more than 1 byte.
func limitCore(pid int, user *Credential) error {
	limit := unix.Rlimit{Cur: 1, Max: 1}
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil)
	if errors.Is(err, unix.EPERM) && user != nil {
		// Root without CAP_SYS_RESOURCE, as in many containers, needs the process's
		// real ids (prlimit(2)). The system calls are raw because Go's change every thread.
		const keep = ^uintptr(0)
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(user.GID), keep, keep)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(user.UID), keep, keep)
		}
		if errno != 0 {
			return fmt.Errorf("disable core files of process %d: %w: %w", pid, err, errno)
		}
		err = unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("disable core files of process %d: %w", pid, err)
	}
	return nil
}

// seclude gives the calling thread a umask of 077 and a descriptor table of its own, of
// which a new program inherits nothing. Go marks its own descriptors close-on-exec, but not
// those that the process was started with, and one of these may have a passphrase.
func seclude() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_UNSHARE|unix.CLOSE_RANGE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("close_range (Linux 5.11 or later is needed): %w", err)
	}
	// Containers may forbid unshare(2). The private directory protects the sockets anyway.
	if err := unix.Unshare(unix.CLONE_FS); err == nil {
		unix.Umask(0o077)
	}
	return nil
}
