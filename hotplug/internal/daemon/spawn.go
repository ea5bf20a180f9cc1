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
	err     error // why state is nil; both are valid after done
}

// spawn starts a program that is to outlive us. It gets /dev/null, stderr, and
// nothing else of ours. o says as whom it runs, and with what in its environment.
func spawn(program string, args []string, stderr *os.File, o Options) (*child, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }() // nothing was written
	attr := &syscall.ProcAttr{
		Dir: "/",
		// LC_ALL, so that what it says is the same everywhere.
		Env:   append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, o.Env...),
		Files: []uintptr{null.Fd(), null.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: o.User.Syscall()},
	}
	var pid int
	var limited error
	err = hostproc.OnThread(func() (err error) {
		if err = seclude(); err != nil {
			return err
		}
		// Not os.StartProcess: it would open a pidfd among this thread's
		// descriptors, and use it in another thread.
		pid, err = syscall.ForkExec(program, append([]string{program}, args...), attr)
		if err == nil {
			limited = limitCore(pid, o.User)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &child{done: make(chan struct{})}
	// Until it is waited for, the number is the child's.
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
	_ = c.process.Kill() // it may have ended already: then there is nothing to do
	<-c.done
}

// exit says how the child has ended.
func (c *child) exit() error {
	if c.err != nil {
		return c.err
	}
	return fmt.Errorf("it ended at once (%s)", c.state)
}

// limitCore keeps a process from leaving its memory in a core file. It is called
// before the process has got any secret.
//
// The limit is 1 byte because 0 is not enough: Linux pays no heed to the limit
// where cores go to a program (core(5)), except that at 1 it starts none. A core
// file is not written at 1 either, since it would not hold a page.
//
// It may change the calling thread's real user, and is for a thread that ends soon.
func limitCore(pid int, user *Credential) error {
	limit := unix.Rlimit{Cur: 1, Max: 1}
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil)
	if errors.Is(err, unix.EPERM) && user != nil {
		// Root without CAP_SYS_RESOURCE, as in many containers, needs the same
		// real ids as the process (prlimit(2)). The system calls are raw because
		// Go's own change every thread.
		const keep = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(user.GID), keep, keep); errno != 0 {
			return fmt.Errorf("forbid core files to process %d: %w: %w", pid, err, errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(user.UID), keep, keep); errno != 0 {
			return fmt.Errorf("forbid core files to process %d: %w: %w", pid, err, errno)
		}
		err = unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("forbid core files to process %d: %w", pid, err)
	}
	return nil
}

// seclude gives the calling thread, and what is forked from it, properties of its
// own that belong to the whole process otherwise: a file mode mask of 077, and
// descriptors of which a new program inherits none.
//
// Go marks its own descriptors as not to be inherited, but not those that the
// process itself was started with, and the user's passphrase may come by one.
func seclude() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_UNSHARE|unix.CLOSE_RANGE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("close_range (Linux 5.11 or later is needed): %w", err)
	}
	// Containers may forbid unshare(2). The mask is a second line then that is
	// missing: the folder alone keeps others from the sockets.
	if err := unix.Unshare(unix.CLONE_FS); err == nil {
		unix.Umask(0o077)
	}
	return nil
}
